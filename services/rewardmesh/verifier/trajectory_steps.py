"""Turns what was found at places of a trajectory into verdicts on its steps."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from rewardmesh.verifier.verdicts import StepVerdict, step_of


class Part(NamedTuple):
    """What was found at one place."""

    start: int | None
    """Code-point offset into the completion; None when it has no place there."""
    score: float
    evidence: str


def step_verdicts(parts: Sequence[Part], starts: Sequence[int]) -> tuple[StepVerdict, ...]:
    """Verdicts on the steps that begin at `starts` (code-point offsets, ascending), or on one step a part without them.

    The score of a step is the mean of what lies in it; a step in which nothing was found has no verdict. What lies before the first step
    counts for that one, what has no place for the last.
    """
    if not starts:
        return tuple(step_of(number, part.score, part.evidence) for number, part in enumerate(parts))
    lying: dict[int, list[Part]] = defaultdict(list)
    for part in parts:
        step = len(starts) - 1 if part.start is None else max(0, bisect_right(starts, part.start) - 1)
        lying[step].append(part)
    return tuple(
        step_of(step, sum(part.score for part in found) / len(found), "; ".join(part.evidence for part in found))
        for step, found in sorted(lying.items())
    )
