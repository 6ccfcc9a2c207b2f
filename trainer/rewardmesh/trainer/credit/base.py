"""Credit: what a batch of scored rollouts teaches, as tensors on the CPU; and the part every kind shares."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Self, TypedDict

from torch import Tensor

from rewardmesh.trainer.credit.layout import TokenLayout
from rewardmesh.trainer.samples import Rollout


class CreditRow(TypedDict):
    """What the ledger keeps per rollout; `credit` is None for a rollout left out, and `left_out` then says why ("" otherwise)."""

    credit: float | None
    credit_kind: str
    pairs: int
    left_out: str


@dataclass(frozen=True, eq=False, kw_only=True)
class Credit(ABC):
    """Credit of the distinct `rollouts` that enter the loss.

    `normaliser` is the weight of the whole optimiser step: a loss divides by it, so that the losses of the parts of a step add up
    to the loss of the step (8 parts of 1 equal 1 part of 8). Over several ranks, sum it and put the sum back with `normalised_by`.
    `left_out` counts what did not enter, as "sample:<reason>", "pair:<reason>" or "group:<reason>"; `left_out_rollouts` gives the
    reason per rollout id. Both are empty in a part.
    """

    rollouts: tuple[Rollout, ...]
    normaliser: float
    left_out: Mapping[str, int] = field(default_factory=dict)
    left_out_rollouts: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)

    @cached_property
    def layout(self) -> TokenLayout:
        """Layout of every per-token tensor of this credit, and of the log-probs its loss takes."""
        return TokenLayout.of(self.rollouts)

    @property
    def is_empty(self) -> bool:
        """Nothing to learn from: the optimiser must not step."""
        return not self.rollouts

    @property
    @abstractmethod
    def total_weight(self) -> float:
        """The weight of this credit alone (of its pairs, or of its tokens)."""

    @abstractmethod
    def select(self, sequences: Sequence[int]) -> Self:
        """The part made of the rollouts at `sequences`, with the same normaliser. ValueError when it would cut a pair in two."""

    @abstractmethod
    def normalised_by(self, normaliser: float) -> Self:
        """The same credit with another normaliser."""

    @abstractmethod
    def units(self, at_least: int) -> list[list[int]]:
        """Sequence indices that should stay together (a prompt's rollouts); finer, where possible, to reach `at_least` units."""

    @property
    def needs_old_log_probs(self) -> bool:
        """Whether the policy's own log-probs before the update must be given by `with_old_log_probs` before any loss is taken."""
        return False

    def with_old_log_probs(self, log_probs: Tensor) -> Self:
        """The same credit with the policy's log-probs before the update, Tensor[N] without gradient. TypeError where none are wanted."""
        raise TypeError(f"{type(self).__name__} takes no old log-probs")

    @abstractmethod
    def ledger_rows(self) -> dict[str, CreditRow]:
        """Per rollout id, of those left out too, what credit it got."""


def group_units(rollouts: Sequence[Rollout]) -> list[list[int]]:
    """Indices of `rollouts` by group, groups in order of appearance."""
    units: dict[str, list[int]] = {}
    for index, rollout in enumerate(rollouts):
        units.setdefault(rollout.group_id, []).append(index)
    return list(units.values())
