"""AlphaPO: SimPO with another shape of its reward.

Gupta et al. 2025 (arXiv 2501.03884), equation 7: r = beta (1 - q^-alpha) / alpha, q the geometric mean of a completion's token
probabilities; alpha -> 0 is SimPO. Above 0 the reward falls faster than the log as q falls, below 0 it is bounded there, which says
how far the likelihood of both completions is let go. Departure: soft labels, as in SimPO; -alpha log q is capped at 20, beyond which
the gradient is 0, so that one very unlikely completion does not decide the batch.
"""

from torch import Tensor

from rewardmesh.trainer.losses.simpo import simple_preference_loss

EXPONENT_LIMIT = 20.0


def alpha_reward(mean_log_prob: Tensor, alpha: float) -> Tensor:
    """(1 - q^-alpha) / alpha of log q = `mean_log_prob`, any shape, nats per token; log q itself for alpha = 0."""
    if alpha == 0:
        return mean_log_prob
    return -(-alpha * mean_log_prob).clamp(max=EXPONENT_LIMIT).expm1() / alpha


def alpha_preference_loss(
    mean_log_prob_first: Tensor, mean_log_prob_second: Tensor, p_first: Tensor, beta: float, gamma: float, alpha: float
) -> Tensor:
    """Loss per pair, Tensor[P], from Tensor[P]s; `p_first` and `gamma` as in `simple_preference_loss`."""
    margin = alpha_reward(mean_log_prob_first, alpha) - alpha_reward(mean_log_prob_second, alpha)
    return simple_preference_loss(margin, p_first, beta, gamma)
