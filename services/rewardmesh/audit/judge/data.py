"""What a judge is audited on: pairs of answers with labels where someone gave them, and groups of answers to one prompt."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from rewardmesh.audit.rows import Prompt

T = TypeVar("T")


@dataclass(frozen=True)
class Answer:
    """An answer and the model that wrote it ("" when unknown)."""

    text: str
    model: str = ""


@dataclass(frozen=True)
class AuditPair:
    """Two answers to one prompt.

    Attributes:
        label: probability that a is better, by whoever labelled it: 1, 0, or 0.5 for equally good; None when nobody did.
    """

    id: str
    prompt: Prompt
    a: Answer
    b: Answer
    label: float | None = None
    references: tuple[str, ...] = ()

    @property
    def decided(self) -> bool:
        """Whether a label says that one answer is better."""
        return self.label is not None and self.label != 0.5


@dataclass(frozen=True)
class AuditGroup:
    """Three or more answers to one prompt."""

    id: str
    prompt: Prompt
    answers: tuple[Answer, ...]
    references: tuple[str, ...] = ()


@dataclass(frozen=True)
class JudgeData:
    """Pairs and groups, with a name for the report, and how many items of the source are left out for what reason."""

    name: str
    pairs: tuple[AuditPair, ...]
    groups: tuple[AuditGroup, ...] = ()
    left_out: tuple[tuple[str, int], ...] = ()

    def sampled(self, pairs: int, groups: int, seed: int) -> JudgeData:
        """At most so many pairs and groups, drawn with a seed; the order of the file is kept."""
        rng = random.Random(seed)
        return replace(self, pairs=_some(self.pairs, pairs, rng), groups=_some(self.groups, groups, rng))

    def describe(self) -> str:
        """One line for the report."""
        labelled = sum(pair.label is not None for pair in self.pairs)
        left_out = "".join(f"; {count} left out: {why}" for why, count in self.left_out)
        return f"{self.name}: {len(self.pairs)} pairs ({labelled} labelled), {len(self.groups)} groups of three or more answers{left_out}"


def user(text: str) -> Prompt:
    """A prompt of one user message."""
    return (("user", text),)


def _some(items: Sequence[T], most: int, rng: random.Random) -> tuple[T, ...]:
    if len(items) <= most:
        return tuple(items)
    return tuple(items[index] for index in sorted(rng.sample(range(len(items)), most)))
