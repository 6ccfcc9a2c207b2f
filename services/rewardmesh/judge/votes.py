"""What a call asks of chance, and what comes of it: votes.

A vote is one way to a verdict: the hops of a template sampled anew, then the label probabilities behind them; without hops a label drawn
from its probabilities, or a verdict that is written. Votes are numbered; a seed fixes each vote of a question by its number, so that more
votes begin with the same ones. Without a seed every call votes anew, and no vote is kept.
"""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rewardmesh.serving.errors import invalid_argument
from rewardmesh.v1 import common_pb2 as pb

MOST_VOTES = 1024
_SEED_BITS = 62


@dataclass(frozen=True)
class Ballot:
    """How a call votes.

    Attributes:
        votes: for each question; 0 reads probabilities and writes greedily.
        temperature: of sampling; 0 where the caller names none.
        seed: never 0.
        fresh: whether the seed is of this call alone, so that nothing sampled may be kept.
    """

    votes: int
    temperature: float
    seed: int
    fresh: bool

    @property
    def chains(self) -> int:
        """Ways to a verdict that are gone for each question."""
        return max(self.votes, 1)

    def heat(self, own: float | None) -> float:
        """The temperature at which a hop is written; `own` is what the template says."""
        if self.votes and self.temperature:
            return self.temperature
        return own if own is not None else float(self.votes > 0)

    def draw(self, chances: Sequence[float], ids: Sequence[int], stream: str, vote: int) -> int:
        """A label drawn at the temperature.

        Args:
            ids: of the question; with the seed, the stream and the vote's number they fix the draw.
            stream: what tells the draw from those of equal questions.
        """
        exponent = 1 / self.heat(None)
        weights = np.power(np.asarray(chances, np.float64), exponent)
        digest = hashlib.blake2b(repr((self.seed, stream, vote)).encode() + np.asarray(ids, "<i8").tobytes(), digest_size=16).digest()
        point = np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little"))).random() * weights.sum()
        return min(int(np.searchsorted(weights.cumsum(), point, side="right")), len(weights) - 1)


@dataclass(frozen=True)
class Vote:
    """One verdict.

    Attributes:
        chances: probability of each label, 1 for the one that was drawn or written.
        texts: what the hops wrote, in order.
        strength: that was stated, in [0, 1]; None where none was.
    """

    chances: tuple[float, ...]
    texts: tuple[str, ...] = ()
    strength: float | None = None

    @property
    def label(self) -> int:
        """Which label it is for; the first of equal ones."""
        return max(range(len(self.chances)), key=self.chances.__getitem__)


@dataclass(frozen=True)
class Tally:
    """The votes on one question; at least one.

    Attributes:
        counted: whether anything was left to chance or written; else there is one vote, and it is a reading.
    """

    votes: tuple[Vote, ...]
    counted: bool

    @property
    def chances(self) -> tuple[float, ...]:
        """Mean probability of each label."""
        return tuple(sum(column) / len(self.votes) for column in zip(*(vote.chances for vote in self.votes), strict=True))


def ballot(votes: int, temperature: float, seed: int) -> Ballot:
    """The ballot of a request.

    Raises:
        CallError: INVALID_ARGUMENT naming the field.
    """
    if not 0 <= votes <= MOST_VOTES:
        raise invalid_argument("votes", f"must lie between 0 and {MOST_VOTES}, is {votes}")
    if not 0 <= temperature < math.inf:
        raise invalid_argument("temperature", f"must be greater than 0 and finite, or 0 for 1; is {temperature}")
    return Ballot(votes, temperature, seed or secrets.randbits(_SEED_BITS) + 1, fresh=not seed)


def share_of_most(names: Sequence[str]) -> float:
    """Share of the votes that say what most of them say."""
    return max(names.count(name) for name in set(names)) / len(names)


def unreadable(text: str, why: str) -> pb.Absence:
    """The absence of a vote that cannot be read."""
    shown = text if len(text) <= 80 else text[:77] + "..."
    return pb.Absence(reason=pb.ABSENCE_REASON_UNPARSABLE, detail=f"{why}: {shown!r}")
