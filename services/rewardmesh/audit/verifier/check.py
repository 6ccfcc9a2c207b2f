"""What a check of a verifier is: figures, and the samples that measure them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from rewardmesh.audit.figures import Spec
from rewardmesh.audit.findings import Findings
from rewardmesh.audit.verifier.asking import Checker
from rewardmesh.audit.verifier.data import VerifierData
from rewardmesh.client import Verdict

Run = Callable[[Checker, VerifierData], Awaitable[Findings]]
RIGHT = 0.5
"""Score from which a verdict says that the answer is right."""


@dataclass(frozen=True)
class Check:
    """One property to look at.

    Attributes:
        name: what figures call it.
        title: heading of its section.
        meaning: one or two sentences for the report.
        specs: its figures.
        run: asks the verifier.
    """

    name: str
    title: str
    meaning: str
    specs: tuple[Spec, ...]
    run: Run


def outcome(verdict: Verdict) -> str:
    """PASS, PARTIAL, FAIL, or the reason of the absence."""
    return verdict.status or (str(verdict.absence.reason) if verdict.absence else "")


def says_right(verdict: Verdict) -> bool | None:
    """Whether the verdict calls the answer right; None when there is none."""
    return None if verdict.value is None else verdict.value >= RIGHT
