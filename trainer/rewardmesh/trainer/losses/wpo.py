"""WPO: DPO with pairs weighted by how likely the policy is to write them.

Zhou et al. 2024 (arXiv 2406.11827), equations 3 and 5: each completion weighs the geometric mean of its token probabilities under
the policy, without gradient, and a pair the product of its two. Departures: soft labels; the alignment of the weights (which divides
each token's probability by the sum of squared probabilities of its whole distribution) needs logits that a loss does not see.
"""

from torch import Tensor

from rewardmesh.trainer.losses.dpo import sigmoid_preference_loss


def policy_weighted_preference_loss(
    margin: Tensor, mean_log_prob_first: Tensor, mean_log_prob_second: Tensor, p_first: Tensor, beta: float
) -> Tensor:
    """Loss per pair, Tensor[P]; no gradient flows through the weight.

    `margin`, `p_first` Tensor[P] as in `sigmoid_preference_loss`; `mean_log_prob_first`, `mean_log_prob_second` Tensor[P]: mean log pi of
    a completion token (nats per token, <= 0).
    """
    weight = (mean_log_prob_first + mean_log_prob_second).detach().exp().clamp(max=1)
    return weight * sigmoid_preference_loss(margin, p_first, beta)
