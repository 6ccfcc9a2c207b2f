"""What a verifier reads and what it may answer: plain data that crosses process borders.

The dataclasses mirror `Sample`, `Verdict` and `Absence` of the protos without importing protobuf, so that workers start fast.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

MOST_CHARACTERS = 16_384
"""Code points of evidence and of an extracted answer that are reported."""
MOST_STEP_CHARACTERS = 1_024
"""Code points of a step's evidence that are reported."""


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


class More(NamedTuple):
    """Parts of a sample that few verifiers read: each is filled when the verifier's `needs` or `reads` name it."""

    notes: tuple[str, ...] = ()
    """"context.notes": what the policy never saw."""
    group_id: str = ""
    """"group_id": answers with the same one answer the same prompt; empty for a sample of its own."""
    policy: str = ""
    """"completion.policy": who wrote the completion, as NAME@VERSION; empty when unknown."""
    mean_log_prob: float | None = None
    """"completion.sampling_log_probs": their mean, nats a token; None when the sample has none."""


NOTHING_MORE = More()


class SampleFields(NamedTuple):
    """The parts of a sample that a verifier may read."""

    completion: str
    references: tuple[str, ...] = ()
    """Gold answers, best first."""
    prompt: tuple[tuple[str, str], ...] = ()
    """Pairs (role, content); role is system, user, assistant or tool."""
    token_ids: array[int] | None = None
    """The completion's token ids; None when the sample has none."""
    tags: Mapping[str, str] = {}
    step_starts: tuple[int, ...] = ()
    """Code-point offsets at which the steps of a trajectory begin."""
    more: More = NOTHING_MORE
    """What is read only for a verifier that asks for it."""

    @property
    def characters(self) -> int:
        """Length of the completion in code points."""
        return len(self.completion)


@dataclass(frozen=True, slots=True)
class Group:
    """Samples that are judged together, at least one."""

    samples: tuple[SampleFields, ...]

    @property
    def characters(self) -> int:
        """Length of all completions in code points."""
        return sum(len(sample.completion) for sample in self.samples)


Work = SampleFields | Group
"""What a worker checks at a time, and its limits hold for."""


class StepVerdict(NamedTuple):
    """A decision on one step of a trajectory, one test of a program, or one of several conditions."""

    step: int
    """Index, from 0."""
    status: Status
    score: float
    """As of a verdict: 1 for PASS, 0 for FAIL, strictly between for PARTIAL."""
    evidence: str = ""


@dataclass(slots=True)
class Verdict:
    """A decision, not to be changed (freezing would double the cost of one). Score 1 for PASS, 0 for FAIL, strictly between for PARTIAL."""

    status: Status
    score: float
    evidence: str
    extracted_answer: str = ""
    span: tuple[int, int] | None = None
    """Code-point offsets [start, end) of the deciding part of the completion."""
    line: int = 0
    """Line of the span's start, from 1; 0 without a span."""
    steps: tuple[StepVerdict, ...] = ()
    """Decisions on its parts."""
    category: str = ""
    """Kind of failure, from a bounded set of the verifier's; empty when it tells none apart."""

    def __post_init__(self) -> None:
        score = self.score
        if not (score == 1 if self.status is Status.PASS else score == 0 if self.status is Status.FAIL else 0 < score < 1):
            raise ValueError(f"a verdict of {self.status.value} cannot have score {self.score}")


@dataclass(frozen=True, slots=True)
class NoVerdict:
    """No decision, and why. Never the same as a score of 0."""

    reason: Reason
    detail: str
    retryable: bool = False


@dataclass(frozen=True, slots=True)
class Checked:
    """What came of one sample or group. Seconds: waiting until it was begun, and computing."""

    result: Verdict | NoVerdict
    """Of the sample, or of every sample of a group alike."""
    queue_seconds: float = 0.0
    compute_seconds: float = 0.0
    members: tuple[Verdict | NoVerdict, ...] = ()
    """In place of `result`: one for each sample of a group, in order."""

    def each(self, samples: int) -> tuple[Verdict | NoVerdict, ...]:
        """One result for each of the group's `samples`."""
        return self.members or (self.result,) * samples


def line_of(verdict: Verdict, completion: str) -> int:
    """Line of the span's start, from 1; 0 without a span."""
    return completion.count("\n", 0, verdict.span[0]) + 1 if verdict.span else 0


def reportable(text: str) -> str:
    """`text` with lone surrogates replaced, and of bounded length: it travels as UTF-8."""
    if text.isascii() and len(text) <= MOST_CHARACTERS:
        return text
    return text[:MOST_CHARACTERS].encode("utf-8", "replace").decode()


def step_of(step: int, score: float, evidence: str) -> StepVerdict:
    """A step's verdict, with the status that its score has."""
    status = Status.PASS if score == 1 else Status.FAIL if score == 0 else Status.PARTIAL
    return StepVerdict(step, status, score, reportable(evidence[:MOST_STEP_CHARACTERS]))


def passed(evidence: str, *, extracted_answer: str = "", span: tuple[int, int] | None = None) -> Verdict:
    """A PASS with score 1."""
    return Verdict(Status.PASS, 1.0, evidence, extracted_answer, span)


def failed(evidence: str, *, extracted_answer: str = "", span: tuple[int, int] | None = None) -> Verdict:
    """A FAIL with score 0."""
    return Verdict(Status.FAIL, 0.0, evidence, extracted_answer, span)
