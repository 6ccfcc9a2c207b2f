"""The flat token layout every loss works in: completions of a batch end to end, no padding and so no mask.

A Tensor[N] of per-token values goes with S sequences; sequence s owns the slice offsets[s]:offsets[s + 1].
Sums over a sequence run in float64: a batch sum then does not depend on how the batch was cut beyond float32 rounding.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from rewardmesh.trainer.samples import Rollout


@dataclass(frozen=True)
class TokenLayout:
    """Lengths (tokens, each >= 1) of S concatenated sequences."""

    lengths: tuple[int, ...]

    def __post_init__(self) -> None:
        if any(length < 1 for length in self.lengths):
            raise ValueError("lengths must be at least 1")

    @classmethod
    def of(cls, rollouts: Sequence[Rollout]) -> Self:
        """The layout of the completions of `rollouts`."""
        return cls(tuple(rollout.length for rollout in rollouts))

    @property
    def sequences(self) -> int:
        """S."""
        return len(self.lengths)

    @property
    def tokens(self) -> int:
        """N."""
        return sum(self.lengths)

    @cached_property
    def offsets(self) -> Tensor:
        """LongTensor[S + 1], starting at 0 and ending at N."""
        return torch.cat([torch.zeros(1, dtype=torch.long), torch.tensor(self.lengths, dtype=torch.long).cumsum(0)])

    @cached_property
    def sequence_index(self) -> Tensor:
        """LongTensor[N]: the sequence each token belongs to."""
        return torch.repeat_interleave(torch.arange(self.sequences), torch.tensor(self.lengths, dtype=torch.long))

    def check(self, values: Tensor, name: str) -> None:
        """ValueError unless `values` is a Tensor[N]."""
        if values.shape != (self.tokens,):
            raise ValueError(f"{name} has shape {tuple(values.shape)}, the batch has {self.tokens} completion tokens")

    def sum(self, values: Tensor) -> Tensor:
        """Tensor[N] -> float64 Tensor[S] on the same device, differentiable."""
        total = torch.zeros(self.sequences, dtype=torch.float64, device=values.device)
        return total.index_add(0, self.sequence_index.to(values.device), values.double())

    def mean(self, values: Tensor) -> Tensor:
        """Tensor[N] -> float64 Tensor[S]: the mean over each sequence's tokens."""
        return self.sum(values) / torch.tensor(self.lengths, dtype=torch.float64, device=values.device)

    def token_index(self, sequences: Sequence[int]) -> Tensor:
        """LongTensor: where the tokens of `sequences` lie, in that order."""
        bounds = self.offsets.tolist()
        parts = [torch.arange(bounds[s], bounds[s + 1]) for s in sequences]
        return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.long)
