"""From the gateway's messages to JSON: float32 values in their shortest form, enum values by name, null for what is not there.

A number that JSON has not (a service's component may hold NaN) is null; a composed value that is none is an absence.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rewardmesh.client import unpack_floats
from rewardmesh.serving.http import microseconds, shortest
from rewardmesh.serving.validation import absence as make_absence
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import mesh_service_pb2 as mesh
from rewardmesh.v1 import verifier_service_pb2 as verifier

Json = dict[str, Any]


def evaluate_reply(response: mesh.EvaluateResponse) -> Json:
    """See `schema.EvaluateReply`."""
    return {
        "evaluations": [_evaluation(each) for each in response.evaluations],
        "groups": [_group(each) for each in response.groups],
        "program_fingerprint": response.program_fingerprint,
    }


def select_best_reply(response: mesh.SelectBestResponse) -> Json:
    """See `schema.SelectBestReply`."""
    return {"best_sample_id": response.best_sample_id or None, "evaluations": [_evaluation(each) for each in response.evaluations]}


def program_reply(response: mesh.DescribeProgramResponse) -> Json:
    """See `schema.ProgramReply`."""
    return {
        "name": response.program,
        "fingerprint": response.fingerprint,
        "yaml": response.yaml,
        "signals": [_signal(each) for each in response.signals],
        "scale": _scale(response.scale),
    }


def _evaluation(evaluation: mesh.Evaluation) -> Json:
    outcome = evaluation.outcome
    lost = outcome.absence if outcome.HasField("absence") else None
    value = shortest(outcome.reward.value) if lost is None else None
    if lost is None and value is None:
        lost = make_absence(pb.ABSENCE_REASON_NON_FINITE, "the composed value is no finite number")
    return {
        "sample_id": outcome.sample_id,
        "value": value,
        "absence": None if lost is None else _absence(lost),
        "advice": None if lost is None else _policy(evaluation.advice) or "DROP",
        "components": {each.signal: _component(each) for each in evaluation.components},
        "provenance": _provenance(outcome.provenance),
    }


def _component(component: mesh.Component) -> Json:
    kind = component.WhichOneof("answer")
    answer: Any = getattr(component, kind) if kind in ("reward", "verdict", "grades", "critique") else None
    provenance = answer.provenance if answer is not None and answer.HasField("provenance") else None
    return {
        "value": shortest(component.value) if component.HasField("value") else None,
        "absence": _absence(component.absence) if component.HasField("absence") else None,
        "applied": _policy(component.applied),
        "wait_seconds": microseconds(component.wait_seconds),
        "attempts": component.attempts,
        "provenance": None if provenance is None else _provenance(provenance),
        "details": _details(component),
    }


def _details(component: mesh.Component) -> Json:
    match component.WhichOneof("answer"):
        case "reward" if component.reward.reward.objectives:
            return {"objectives": {each.name: shortest(each.value) for each in component.reward.reward.objectives}}
        case "verdict" if component.verdict.HasField("verdict"):
            verdict = component.verdict.verdict
            status = verifier.VerdictStatus.Name(verdict.status).removeprefix("VERDICT_STATUS_")
            details = {"status": status, "evidence": verdict.evidence, "extracted_answer": verdict.extracted_answer}
            return details | ({"category": verdict.category} if verdict.category else {})
        case "grades" if component.grades.HasField("grades"):
            return {"grades": {each.criterion_id: shortest(each.score) for each in component.grades.grades.grades}}
        case "critique" if component.critique.HasField("critique"):
            critique = component.critique.critique
            return {"critique": critique.text, "spans": [_span(span) for span in critique.spans]}
        case "preferences" if component.preferences.HasField("win_rate"):
            return {"win_rate": shortest(component.preferences.win_rate)}
        case _:
            return {}


def _span(span: pb.Span) -> Json:
    value = shortest(span.value) if span.HasField("value") else None
    return {"start": span.start, "end": span.end, "value": value, "label": span.label, "comment": span.comment}


def _group(group: mesh.GroupPreferences) -> Json:
    size = group.matrix.size
    values = [shortest(value) for value in unpack_floats(group.matrix.probabilities)]
    return {
        "group_id": group.group_id,
        "signal": group.signal,
        "sample_ids": list(group.sample_ids),
        "matrix": [values[row * size : (row + 1) * size] for row in range(size)],
    }


def _signal(signal: mesh.SignalInfo) -> Json:
    return {
        "name": signal.name,
        "kind": signal.kind,
        "target": signal.target,
        "scale": _scale(signal.scale),
        "on_absence": _policy(signal.on_absence) or "DROP",
        "fallback": shortest(signal.fallback) if signal.HasField("fallback") else None,
        "timeout_seconds": signal.timeout.ToNanoseconds() / 1e9 if signal.HasField("timeout") else None,
    }


def _scale(scale: pb.Scale) -> Json:
    bounds: Iterable[float | None] = (scale.min, scale.max) if scale.kind == pb.SCALE_KIND_BOUNDED else (None, None)
    low, high = (None if bound is None else shortest(bound) for bound in bounds)
    return {"kind": pb.ScaleKind.Name(scale.kind).removeprefix("SCALE_KIND_"), "min": low, "max": high}


def _absence(lost: pb.Absence) -> Json:
    known = lost.reason in pb.AbsenceReason.values()
    return {
        "reason": pb.AbsenceReason.Name(lost.reason).removeprefix("ABSENCE_REASON_") if known else f"UNKNOWN_{lost.reason}",
        "detail": lost.detail,
        "retryable": lost.retryable,
        "retry_after_seconds": lost.retry_after.ToNanoseconds() / 1e9 if lost.HasField("retry_after") else None,
    }


def _policy(policy: mesh.AbsencePolicy.ValueType) -> str | None:
    return None if policy == mesh.ABSENCE_POLICY_UNSPECIFIED else mesh.AbsencePolicy.Name(policy).removeprefix("ABSENCE_POLICY_")


def _provenance(provenance: pb.Provenance) -> Json:
    model = provenance.model
    return {
        "service": provenance.service,
        "model": {"name": model.name, "version": model.version, "fingerprint": model.fingerprint} if provenance.HasField("model") else None,
        "replica": provenance.replica,
        "cached": provenance.cached,
        "queue_seconds": microseconds(provenance.queue_seconds),
        "compute_seconds": microseconds(provenance.compute_seconds),
        "truncated": provenance.truncated,
        "cost_usd": provenance.cost_usd if provenance.HasField("cost_usd") else None,
    }
