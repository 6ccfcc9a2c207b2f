"""What operators work on: the values of a whole group at once, each present or missing for stated causes.

A group is evaluated as a column, because some shapes need the group's statistics. A missing value is never a number: it passes
through every operator that needs it, with its causes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rewardmesh.gateway.program.scales import Scale
from rewardmesh.v1 import common_pb2 as pb

PENDING = pb.Absence(detail="not answered yet")
"""Stands (by identity) for a value that may still come."""


@dataclass(frozen=True)
class Member:
    """A sample as a program sees it: tags to route by, and for every signal it needs a value or why there is none."""

    tags: Mapping[str, str]
    values: Mapping[str, float | pb.Absence]


@dataclass(frozen=True)
class Present:
    """A value, and the signals on whose fallbacks it rests."""

    value: float
    fallbacks: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Cause:
    """A reason for a missing value.

    Attributes:
        signal: the absent signal whose policy decides; empty when the group itself is too small.
        absence: why.
        own: whether it is this sample's signal (else another member's, without which the group's statistics are not known).
    """

    signal: str
    absence: pb.Absence
    own: bool = True

    @property
    def pending(self) -> bool:
        """Whether the value may still come."""
        return self.absence is PENDING


@dataclass(frozen=True)
class Missing:
    """No value; at least one cause, in program order."""

    causes: tuple[Cause, ...]


Result = Present | Missing
Column = list[Result]


class Node(ABC):
    """An expression of a program."""

    scale: Scale

    @abstractmethod
    def needs(self, tags: Mapping[str, str]) -> frozenset[str]:
        """Signals that a sample with these tags may need."""

    @abstractmethod
    def signals(self) -> frozenset[str]:
        """All signals named in it."""

    @abstractmethod
    def evaluate(self, members: Sequence[Member]) -> Column:
        """One result a member, in order."""

    @abstractmethod
    def canonical(self) -> Any:
        """Plain values that say exactly what it computes, for the fingerprint."""


def missing(*results: Result) -> Missing | None:
    """The causes of all missing results together; None when all are present."""
    causes = tuple(cause for result in results if isinstance(result, Missing) for cause in result.causes)
    distinct: dict[tuple[str, bool, int], Cause] = {}
    for cause in causes:  # a signal that is used twice is one cause (absences are messages and have no hash)
        distinct.setdefault((cause.signal, cause.own, id(cause.absence)), cause)
    return Missing(tuple(distinct.values())) if causes else None


def fallbacks(*results: Result) -> frozenset[str]:
    """Signals whose fallbacks any of the results rests on."""
    return frozenset(signal for result in results if isinstance(result, Present) for signal in result.fallbacks)
