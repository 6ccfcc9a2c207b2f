"""What the search found: votes of each candidate, why it was kept or refused, and how well labels are reconstructed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

Z = 1.96
"""Half-width of a 95 % interval in standard errors."""


@dataclass(frozen=True)
class Votes:
    """Verdicts under a principle against the labels: pairs on which it agrees, disagrees, says neither, and got no verdict."""

    agree: int
    against: int
    neutral: int
    absent: int

    @property
    def judged(self) -> int:
        """Pairs with a verdict."""
        return self.agree + self.against + self.neutral

    @property
    def coverage(self) -> float:
        """Share of the judged pairs with a vote, in [0, 1]; 0 when nothing was judged."""
        return (self.agree + self.against) / self.judged if self.judged else 0.0

    @property
    def net(self) -> float:
        """Votes for the labels less those against, as a share of the judged pairs, in [-1, 1]."""
        return (self.agree - self.against) / self.judged if self.judged else 0.0

    @property
    def net_low(self) -> float:
        """Lower end of the 95 % interval of `net` (normal approximation); -1 when nothing was judged."""
        if not self.judged:
            return -1.0
        return max(-1.0, self.net - Z * math.sqrt(max(self.coverage - self.net**2, 0.0) / self.judged))


@dataclass(frozen=True)
class Accuracy:
    """Labels that a judge reconstructs: an undecided verdict counts half; pairs without a verdict are not counted but known."""

    right: float
    judged: int
    absent: int

    @property
    def value(self) -> float:
        """Share of the judged pairs, in [0, 1]; NaN when nothing was judged."""
        return self.right / self.judged if self.judged else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval (Wilson)."""
        if not self.judged:
            return math.nan, math.nan
        n, p = self.judged, self.value
        centre, width = p + Z**2 / (2 * n), Z * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n * n))
        return (centre - width) / (1 + Z**2 / n), (centre + width) / (1 + Z**2 / n)


def accuracy(chances: Sequence[float | None]) -> Accuracy:
    """From the probabilities that a judge gives to the labelled answers."""
    judged = [chance for chance in chances if chance is not None]
    right = sum(1.0 if chance > 0.5 else 0.5 if chance == 0.5 else 0.0 for chance in judged)
    return Accuracy(right, len(judged), len(chances) - len(judged))


@dataclass(frozen=True)
class Tested:
    """A candidate after its test.

    Attributes:
        id: short name, unique.
        source: "given", or "proposed" with how often.
        effect: mean absolute change of the judge's probability by the principle, in [0, 1].
        refused: why it is not kept; empty when it is.
    """

    id: str
    text: str
    source: str
    votes: Votes
    effect: float
    refused: str

    @property
    def kept(self) -> bool:
        """Whether the constitution may hold it."""
        return not self.refused


@dataclass(frozen=True)
class Outcome:
    """All that was found.

    Attributes:
        tested: every candidate, best first.
        constitution: ids of the chosen ones, in the order of their choice.
        choice: reconstruction on the pairs that the choice was made on: before any principle, then after each.
        before, after: reconstruction on held-out pairs by the judge without principles and with the constitution.
        sizes: pairs that were tested on, chosen on and held out.
        absent: pairs without a verdict, by reason, all questions together.
        unreadable: proposals that are no principle.
        judge: model, version and fingerprint that answered.
    """

    tested: tuple[Tested, ...]
    constitution: tuple[str, ...]
    choice: tuple[Accuracy, ...]
    before: Accuracy
    after: Accuracy
    sizes: tuple[int, int, int]
    absent: Counter[str] = field(default_factory=Counter)
    unreadable: int = 0
    judge: str = ""

    @property
    def chosen(self) -> list[Tested]:
        """The constitution's principles."""
        by_id = {each.id: each for each in self.tested}
        return [by_id[identifier] for identifier in self.constitution]
