"""XPO: DPO and optimism about what the reference does not write.

Xie et al. 2024 (arXiv 2405.21046), algorithm 1, line 6: the DPO loss of a pair (y ~ pi, y' ~ pi_ref) + alpha log pi(y'). Pushing down
what the reference already says raises all else. Departure: soft labels.
"""

from torch import Tensor

from rewardmesh.trainer.losses.dpo import sigmoid_preference_loss


def exploratory_preference_loss(margin: Tensor, log_prob_of_reference_sample: Tensor, p_first: Tensor, beta: float, alpha: float) -> Tensor:
    """Loss per pair, Tensor[P].

    `margin`, `p_first` Tensor[P] as in `sigmoid_preference_loss`; `log_prob_of_reference_sample` Tensor[P]: sum over completion tokens of
    log pi of that completion of the pair which the reference sampled (nats).
    """
    return sigmoid_preference_loss(margin, p_first, beta) + alpha * log_prob_of_reference_sample
