"""What a verifier reads and what it may answer: plain data that crosses process borders.

The dataclasses mirror `Sample`, `Verdict` and `Absence` of the protos without importing protobuf, so that workers start fast.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from math import isfinite


class Status(StrEnum):
    """What was decided."""

    PASS = "pass"
    FAIL = "fail"
    PARTIAL = "partial"


class Reason(StrEnum):
    """Why there is no verdict; the names of `AbsenceReason` without its prefix."""

    INFRASTRUCTURE = "INFRASTRUCTURE"
    DEADLINE = "DEADLINE"
    INVALID_INPUT = "INVALID_INPUT"
    TOO_LONG = "TOO_LONG"
    NOT_APPLICABLE = "NOT_APPLICABLE"
    UNPARSABLE = "UNPARSABLE"
    ABSTAINED = "ABSTAINED"


@dataclass(frozen=True, slots=True)
class SampleFields:
    """The parts of a sample that a verifier may read."""

    completion: str
    references: tuple[str, ...] = ()
    """Gold answers, best first."""
    prompt: tuple[tuple[str, str], ...] = ()
    """Pairs (role, content); role is system, user, assistant or tool."""
    token_ids: array[int] | None = None
    """The completion's token ids; None when the sample has none."""
    tags: Mapping[str, str] = field(default_factory=dict)
    step_starts: tuple[int, ...] = ()
    """Code-point offsets at which the steps of a trajectory begin."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A decision. The score is 1 for PASS, 0 for FAIL, strictly between for PARTIAL."""

    status: Status
    score: float
    evidence: str
    extracted_answer: str = ""
    span: tuple[int, int] | None = None
    """Code-point offsets [start, end) of the deciding part of the completion."""
    line: int = 0
    """Line of the span's start, from 1; 0 without a span."""

    def __post_init__(self) -> None:
        allowed = {Status.PASS: self.score == 1, Status.FAIL: self.score == 0, Status.PARTIAL: 0 < self.score < 1}
        if not isfinite(self.score) or not allowed[self.status]:
            raise ValueError(f"a verdict of {self.status.value} cannot have score {self.score}")


@dataclass(frozen=True, slots=True)
class NoVerdict:
    """No decision, and why. Never the same as a score of 0."""

    reason: Reason
    detail: str
    retryable: bool = False


def passed(evidence: str, *, extracted_answer: str = "", span: tuple[int, int] | None = None) -> Verdict:
    """A PASS with score 1."""
    return Verdict(Status.PASS, 1.0, evidence, extracted_answer, span)


def failed(evidence: str, *, extracted_answer: str = "", span: tuple[int, int] | None = None) -> Verdict:
    """A FAIL with score 0."""
    return Verdict(Status.FAIL, 0.0, evidence, extracted_answer, span)
