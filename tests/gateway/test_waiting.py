"""Shares of the deadline, and one version a group."""

from __future__ import annotations

import pytest

from rewardmesh.gateway.asking import Reading
from rewardmesh.gateway.waiting import one_version, share_s
from rewardmesh.serving.validation import absence
from rewardmesh.v1 import common_pb2 as pb


@pytest.mark.parametrize(
    ("remaining_s", "timeout_s", "share"), [(2.0, None, 1.9), (60.0, None, 59.0), (60.0, 3.0, 3.0), (2.0, 3.0, 1.9), (0.0, None, 0.0)]
)
def test_a_signals_share_of_the_deadline(remaining_s: float, timeout_s: float | None, share: float) -> None:
    assert share_s(remaining_s, timeout_s) == pytest.approx(share)


def test_only_the_newest_version_of_a_group_counts() -> None:
    lost = absence(pb.ABSENCE_REASON_UNPARSABLE, "no")
    old, new = ("rm", 1, ""), ("rm", 2, "")
    readings = [Reading(0.1, version=old), Reading(0.2, version=new), Reading(lost, version=old), Reading(lost)]
    first, *rest = one_version(readings)
    assert isinstance(first.value, pb.Absence)
    assert (first.value.reason, first.value.retryable) == (pb.ABSENCE_REASON_INFRASTRUCTURE, True)
    assert rest == readings[1:]
    assert one_version(readings[1:]) == readings[1:]
