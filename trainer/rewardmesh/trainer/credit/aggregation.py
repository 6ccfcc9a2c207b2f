"""From per-token losses to the loss of a batch: how much each token weighs, and what it counts in the normaliser.

loss = sum of weight * token loss / sum of mass over the whole optimiser step. Both are properties of a token that no micro-batch
changes, so that 8 parts of 1 equal 1 part of 8.

token: the mean over all tokens (DAPO: Yu et al. 2025, arXiv 2503.14476): long completions weigh more.
sequence: the mean over sequences of their token means (GRPO: Shao et al. 2024, arXiv 2402.03300): a token of a long one weighs less.
constant: the sum over tokens over sequences times a constant length (Dr. GRPO: Liu et al. 2025, arXiv 2503.20783): no length bias; with
length 1 it is the mean over sequences of their token sums, the policy gradient of the expected return.
group: the mean over groups of the mean over the group's tokens: every prompt weighs alike.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from rewardmesh.trainer.credit.base import group_units
from rewardmesh.trainer.samples import Rollout

Aggregation = Literal["token", "sequence", "constant", "group"]


def aggregation_weights(rollouts: Sequence[Rollout], aggregation: Aggregation, constant_length: int = 1) -> tuple[Tensor, Tensor]:
    """(weight, mass), each float64[N] over the completion tokens of `rollouts`; `constant_length` (tokens) is for "constant"."""
    lengths = torch.tensor([rollout.length for rollout in rollouts], dtype=torch.long)
    own = 1 / lengths.double()
    if aggregation == "token":
        weight = mass = torch.ones_like(own)
    elif aggregation == "sequence":
        weight = mass = own
    elif aggregation == "constant":
        weight, mass = torch.full_like(own, 1 / constant_length), own
    else:
        weight = torch.empty_like(own)
        for unit in group_units(rollouts):
            weight[unit] = 1 / lengths[unit].sum().double()
        mass = weight
    return weight.repeat_interleave(lengths), mass.repeat_interleave(lengths)
