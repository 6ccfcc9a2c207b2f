"""RPO: DPO and the likelihood of the better completion.

Pang et al. 2024, "Iterative Reasoning Preference Optimization" (arXiv 2404.19733), equation 1: the DPO loss + alpha times the negative
log-likelihood of the chosen completion per token; the same term follows from adversarial rewards in Liu et al. 2024 (arXiv
2405.16436). It keeps the likelihood of the chosen from falling with that of the rejected. Departures: soft labels, each side's
likelihood counts with the probability that it is the better one; the length that divides is that of the completion, not of prompt
and completion.
"""

from torch import Tensor

from rewardmesh.trainer.losses.dpo import sigmoid_preference_loss


def likelihood_preference_loss(margin: Tensor, nll_first: Tensor, nll_second: Tensor, p_first: Tensor, beta: float, alpha: float) -> Tensor:
    """Loss per pair, Tensor[P].

    `margin`, `p_first` Tensor[P] as in `sigmoid_preference_loss`; `nll_first`, `nll_second` Tensor[P]: negative log-probability of each
    completion, of the whole or per token as the caller likes (nats).
    """
    return sigmoid_preference_loss(margin, p_first, beta) + alpha * (p_first * nll_first + (1 - p_first) * nll_second)
