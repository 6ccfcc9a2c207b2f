"""Credit: what a batch of scored rollouts teaches, as tensors on the CPU; and the part every kind shares."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Self, TypedDict

import torch
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

    A subclass names its tensors: `per_sequence` have the shape [S] of the rollouts, `per_token` the shape [N] of their completion tokens.
    They are checked when it is made and cut with it; None stays None.
    """

    per_sequence: ClassVar[tuple[str, ...]] = ()
    per_token: ClassVar[tuple[str, ...]] = ()

    rollouts: tuple[Rollout, ...]
    normaliser: float
    left_out: Mapping[str, int] = field(default_factory=dict)
    left_out_rollouts: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.per_sequence:
            tensor = getattr(self, name)
            if tensor is not None and tensor.shape != (len(self.rollouts),):
                raise ValueError(f"{name} has shape {tuple(tensor.shape)} for {len(self.rollouts)} rollouts")
        for name in self.per_token:
            tensor = getattr(self, name)
            if tensor is not None:
                self.layout.check(tensor, name)

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

    @property
    def why_whole(self) -> str:
        """Why no part may hold some of a group's rollouts and not the others; empty where it may."""
        return ""

    def select(self, sequences: Sequence[int]) -> Self:
        """The part made of the rollouts at `sequences`, with the same normaliser. ValueError when it would cut what must stay whole."""
        taken = set(sequences)
        if self.why_whole and any(0 < len(taken.intersection(unit)) < len(unit) for unit in group_units(self.rollouts)):
            raise ValueError(f"sequences cut {self.why_whole}")
        return self._part(sequences)

    def normalised_by(self, normaliser: float) -> Self:
        """The same credit with another normaliser."""
        return replace(self, normaliser=normaliser)

    def units(self, at_least: int) -> list[list[int]]:
        """Sequence indices that should stay together: a group's, whose prompt is then shared.

        One unit per rollout when that gives fewer than `at_least` units and groups may be cut.
        """
        groups = group_units(self.rollouts)
        return groups if self.why_whole or len(groups) >= at_least else [[index] for index in range(len(self.rollouts))]

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

    def _part(self, sequences: Sequence[int], **other: Tensor) -> Self:
        """The rollouts at `sequences` with their share of every tensor; `other` fields as given."""
        places, tokens = torch.tensor(sequences, dtype=torch.long), self.layout.token_index(sequences)
        cut: dict[str, Any] = dict(other)
        for names, index in ((self.per_sequence, places), (self.per_token, tokens)):
            cut.update((name, None if getattr(self, name) is None else getattr(self, name)[index]) for name in names)
        return replace(self, rollouts=tuple(self.rollouts[s] for s in sequences), left_out={}, left_out_rollouts={}, **cut)

    def _rows(self, kind: str, given: Sequence[float], pairs: Sequence[int] | None = None) -> dict[str, CreditRow]:
        """Ledger rows from the credit `given` to each rollout, in order, and the pairs it was in."""
        rows: dict[str, CreditRow] = {
            id_: {"credit": None, "credit_kind": kind, "pairs": 0, "left_out": reason} for id_, reason in self.left_out_rollouts.items()
        }
        for place, (rollout, credit) in enumerate(zip(self.rollouts, given, strict=True)):
            rows[rollout.id] = {"credit": credit, "credit_kind": kind, "pairs": pairs[place] if pairs else 0, "left_out": ""}
        return rows


def group_units(rollouts: Sequence[Rollout]) -> list[list[int]]:
    """Indices of `rollouts` by group, groups in order of appearance."""
    units: dict[str, list[int]] = {}
    for index, rollout in enumerate(rollouts):
        units.setdefault(rollout.group_id, []).append(index)
    return list(units.values())
