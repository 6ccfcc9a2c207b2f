"""Puts results and reasons into outcomes, and counts them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from rewardmesh.serving.metrics import COMPUTE_SECONDS, ITEMS, QUEUE_SECONDS, outcome_label
from rewardmesh.serving.validation import absence
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import verifier_service_pb2 as verifier_pb
from rewardmesh.verifier.verdicts import NoVerdict, Status, Verdict

if TYPE_CHECKING:
    from google.protobuf.internal.containers import RepeatedCompositeFieldContainer

    Outcomes = RepeatedCompositeFieldContainer[verifier_pb.VerdictOutcome]

SERVICE = "rewardmesh.v1.VerifierService"

_STATUS = {
    Status.PASS: verifier_pb.VERDICT_STATUS_PASS,
    Status.FAIL: verifier_pb.VERDICT_STATUS_FAIL,
    Status.PARTIAL: verifier_pb.VERDICT_STATUS_PARTIAL,
}
_PRESENT = outcome_label(None)
_QUEUE_SECONDS, _COMPUTE_SECONDS = QUEUE_SECONDS.labels(SERVICE), COMPUTE_SECONDS.labels(SERVICE)


class OutcomeWriter:
    """Writes the outcomes of one verifier, in place: messages that are built elsewhere would be copied.

    Outcomes are counted by `flush`, all at once.
    """

    def __init__(self, verifier: str, replica: str) -> None:
        self._verifier = verifier
        self._provenance = pb.Provenance(service=SERVICE, replica=replica)
        self._present = 0
        self._absent: Counter[str] = Counter()

    def write(
        self,
        into: Outcomes,
        sample_id: str,
        result: Verdict | NoVerdict | pb.Absence,
        queue_seconds: float = 0.0,
        compute_seconds: float = 0.0,
    ) -> None:
        """Add one outcome."""
        outcome = into.add()
        outcome.sample_id = sample_id
        if isinstance(result, Verdict):
            _put_verdict(outcome.verdict, result)
            self._present += 1
        else:
            lost = result if isinstance(result, pb.Absence) else _to_absence(result)
            outcome.absence.CopyFrom(lost)
            self._absent[outcome_label(lost)] += 1
        provenance = self._provenance
        provenance.queue_seconds, provenance.compute_seconds = queue_seconds, compute_seconds
        outcome.provenance.CopyFrom(provenance)

    def flush(self) -> None:
        """Count what has been written."""
        if self._present:
            ITEMS.labels(SERVICE, self._verifier, _PRESENT).inc(self._present)
            self._present = 0
        for label, count in self._absent.items():
            ITEMS.labels(SERVICE, self._verifier, label).inc(count)
        self._absent.clear()


def observe(queue_seconds: float, compute_seconds: float) -> None:
    """Note the times of one item, or of several that are answered together: their longest wait, and all of their computation."""
    _QUEUE_SECONDS.observe(queue_seconds)
    _COMPUTE_SECONDS.observe(compute_seconds)


def _put_verdict(message: verifier_pb.Verdict, verdict: Verdict) -> None:
    # Field by field: several times faster than messages that are copied into one another.
    message.status, message.score = _STATUS[verdict.status], verdict.score
    message.evidence = verdict.evidence
    if verdict.extracted_answer:
        message.extracted_answer = verdict.extracted_answer
    if verdict.span:
        location = message.location
        location.line = verdict.line
        location.span.start, location.span.end = verdict.span
    for step, status, score, evidence in verdict.steps:
        message.steps.add(step=step, status=_STATUS[status], score=score, evidence=evidence)
    if verdict.category:
        message.category = verdict.category


def _to_absence(result: NoVerdict) -> pb.Absence:
    return absence(pb.AbsenceReason.Value(f"ABSENCE_REASON_{result.reason.value}"), result.detail, retryable=result.retryable)
