"""Checks that every service makes on its items, and the absences they lead to."""

from __future__ import annotations

from collections.abc import Iterable

from rewardmesh.serving.errors import invalid_argument, to_duration
from rewardmesh.v1 import common_pb2 as pb


def absence(reason: pb.AbsenceReason.ValueType, detail: str, *, retryable: bool = False, retry_after_s: float | None = None) -> pb.Absence:
    """A typed reason for a missing score."""
    result = pb.Absence(reason=reason, detail=detail, retryable=retryable)
    if retry_after_s is not None:
        result.retry_after.CopyFrom(to_duration(retry_after_s))
    return result


def require_unique_ids(ids: Iterable[str], field: str) -> None:
    """Refuse empty and repeated ids: outcomes are keyed by them.

    Raises:
        CallError: INVALID_ARGUMENT naming the first offending item, for example `samples[3].id`.
    """
    seen: dict[str, int] = {}
    for index, item in enumerate(ids):
        if not item:
            raise invalid_argument(f"{field}[{index}].id", "must not be empty")
        if item in seen:
            raise invalid_argument(
                f"{field}[{index}].id", f"{item!r} is already the id of {field}[{seen[item]}]; ids must be unique in a call"
            )
        seen[item] = index


def sample_problem(sample: pb.Sample) -> pb.Absence | None:
    """What makes a sample unfit for a model to score: no prompt, an unset role, an empty completion. None when fit."""
    if not sample.prompt:
        return absence(pb.ABSENCE_REASON_INVALID_INPUT, "prompt: has no messages")
    for index, message in enumerate(sample.prompt):
        if message.role == pb.ROLE_UNSPECIFIED or message.role not in pb.Role.values():
            return absence(pb.ABSENCE_REASON_INVALID_INPUT, f"prompt[{index}].role: is unset or unknown ({message.role})")
    if not sample.completion.text:
        return absence(pb.ABSENCE_REASON_INVALID_INPUT, "completion.text: is empty, there is nothing to score")
    return None
