"""What is said when members do not answer: an absence of the panel that names each member's reason. A member's absence is never a vote."""

from __future__ import annotations

from collections.abc import Mapping

from rewardmesh.serving.errors import to_duration
from rewardmesh.serving.validation import absence
from rewardmesh.v1 import common_pb2 as pb


def abstained(why: str, lost: Mapping[str, pb.Absence]) -> pb.Absence:
    """ABSTAINED with `why` and the reasons of the members that gave no verdict.

    It is retryable when one of theirs is: another call may bring that member back; not before the longest wait that one of them asks for.
    """
    reasons = "; ".join(f"{member}: {describe(each)}" for member, each in lost.items())
    found = absence(
        pb.ABSENCE_REASON_ABSTAINED, f"{why} ({reasons})" if reasons else why, retryable=any(each.retryable for each in lost.values())
    )
    waits = [each.retry_after.ToNanoseconds() / 1e9 for each in lost.values() if each.HasField("retry_after")]
    if waits and found.retryable:
        found.retry_after.CopyFrom(to_duration(max(waits)))
    return found


def describe(lost: pb.Absence) -> str:
    """`REASON: detail`."""
    name = pb.AbsenceReason.Name(lost.reason) if lost.reason in pb.AbsenceReason.values() else str(lost.reason)
    return f"{name.removeprefix('ABSENCE_REASON_')}: {lost.detail}".rstrip(": ")


def majority_of(members: int) -> int:
    """The least number that is more than half."""
    return members // 2 + 1


def too_few(answered: int, members: int, quorum: int, lost: Mapping[str, pb.Absence]) -> pb.Absence | None:
    """The absence of an item that fewer than `quorum` members answered; None when there are enough."""
    if answered >= quorum:
        return None
    return abstained(f"{answered} of {members} members gave a verdict, {quorum} are needed", lost)
