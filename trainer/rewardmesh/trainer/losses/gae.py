"""Generalised advantage estimation over a flat batch, and whitening.

Schulman et al. 2015 (arXiv 1506.02438), equation 16: A_t = sum_l (gamma lam)^l delta_{t+l}, delta_t = r_t + gamma V_{t+1} - V_t.
V after the last token of a sequence is 0. Each sequence stands alone: nothing flows across the offsets.
"""

import torch
from torch import Tensor


def generalised_advantages(rewards: Tensor, values: Tensor, offsets: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """(advantages, returns), both Tensor[N] without gradient; returns = advantages + values.

    `rewards`, `values` Tensor[N]; `offsets` LongTensor[S + 1], sequence s owns offsets[s]:offsets[s + 1].
    """
    rewards, values = rewards.detach(), values.detach()
    advantages = torch.zeros_like(rewards)
    ends, lengths = offsets[1:], offsets[1:] - offsets[:-1]
    longest = int(lengths.max()) if lengths.numel() else 0
    for back in range(longest):  # one step for all sequences at once, from their last token backwards
        at = ends[lengths > back] - 1 - back
        if back == 0:
            advantages[at] = rewards[at] - values[at]
        else:
            delta = rewards[at] + gamma * values[at + 1] - values[at]
            advantages[at] = delta + gamma * lam * advantages[at + 1]
    return advantages, advantages + values


def whiten(values: Tensor, epsilon: float = 1e-8) -> Tensor:
    """(values - mean) / (std + epsilon) over all entries, Tensor[N]; population standard deviation, zeros when nothing varies.

    There is no mask: what is absent must not be in `values`.
    """
    if values.numel() == 0:
        return values
    return (values - values.mean()) / (values.std(correction=0) + epsilon)
