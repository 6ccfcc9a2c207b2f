"""RRHF: completions ordered by likelihood as they are by reward.

Yuan et al. 2023 (arXiv 2304.05302), equation 2: sum over pairs with r_i < r_j of max(0, p_i - p_j), p the mean log-probability of a
completion's tokens. The likelihood of the best completion (equation 3) is the algorithm's to add. A tie compares nothing.
"""

from torch import Tensor


def ranking_hinge_loss(mean_log_probs: Tensor, rewards: Tensor, present: Tensor) -> Tensor:
    """Loss per list, Tensor[G].

    `mean_log_probs` Tensor[G, K] (nats per token) and `rewards` Tensor[G, K], in any order; `present` bool[G, K]: True where there is a
    completion. A list of one, or of equal rewards, has loss 0.
    """
    worse = (rewards[:, :, None] < rewards[:, None, :]) & present[:, :, None] & present[:, None, :]  # [G, i, j]: i is worse than j
    excess = (mean_log_probs[:, :, None] - mean_log_probs[:, None, :]).relu()
    return excess.masked_fill(~worse, 0).sum(dim=(1, 2))
