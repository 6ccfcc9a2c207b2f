"""PRO: the whole ranking of a prompt's completions, best against the rest, again and again.

Song et al. 2023 (arXiv 2306.17492), equations 6 to 8: with completions sorted from best to worst and pi_k the mean log-probability of
the k-th, -sum_k log(exp(pi_k / T_k^k) / sum_{i >= k} exp(pi_i / T_k^i)), 1 / T_k^i = r_k - r_i, T_k^k the smallest of them: a completion
that is nearly as good is hardly pushed down. The likelihood term on the best is the algorithm's. Departure: a completion that ties
with all that follow adds a constant instead of an arbitrary order.
"""

import torch
from torch import Tensor


def ranking_loss(mean_log_probs: Tensor, rewards: Tensor, present: Tensor) -> Tensor:
    """Loss per list, Tensor[G].

    `mean_log_probs` Tensor[G, K] (nats per token) and `rewards` Tensor[G, K], in any order, without gradient through rewards;
    `present` bool[G, K]: True where there is a completion. A list of one has loss 0.
    """
    order = rewards.detach().masked_fill(~present, -torch.inf).argsort(dim=1, descending=True, stable=True)
    there = present.gather(1, order)
    scores = mean_log_probs.gather(1, order).masked_fill(~there, 0)
    values = rewards.detach().gather(1, order).masked_fill(~there, 0)
    later = torch.ones(values.shape[1], values.shape[1], dtype=torch.bool, device=values.device).triu(1)
    compared = there[:, :, None] & there[:, None, :] & later  # [G, K, K]: row k against every later column i
    gap = (values[:, :, None] - values[:, None, :]).masked_fill(~compared, 0)
    own = scores * gap.amax(dim=2)
    others = (scores[:, None, :] * gap).masked_fill(~compared, -torch.inf)
    per_rank = torch.cat([own[:, :, None], others], dim=2).logsumexp(dim=2) - own
    return per_rank.sum(dim=1)
