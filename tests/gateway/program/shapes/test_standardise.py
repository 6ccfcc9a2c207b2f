"""The shape `standardise`."""

from __future__ import annotations

from typing import Any

import pytest

from rewardmesh.gateway.program import PENDING
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import mesh_service_pb2 as mesh

SHAPE = "{of: helpful, shape: {standardise: group}}"


def test_present_values_have_mean_0_and_deviation_1(make: Any, run: Any, hopeless: Any) -> None:
    program = make(SHAPE)
    values = [each.value for each in run(program, [{"helpful": value} for value in (1.0, 2.0, hopeless, 6.0)])]
    present = [value for value in values if value is not None]
    assert values[2] is None
    assert sum(present) == pytest.approx(0)
    assert sum(value**2 for value in present) / 3 == pytest.approx(1)
    assert program.reward.scale.name == "standardised"


def test_equal_values_are_0(make: Any, run: Any) -> None:
    assert [each.value for each in run(make(SHAPE), [{"helpful": 0.1}] * 3)] == [0.0, 0.0, 0.0]


def test_one_present_value_has_no_spread(make: Any, run: Any, lost: Any) -> None:
    [alone] = run(make(SHAPE), [{"helpful": 1.0}])
    assert alone.absence.reason == pb.ABSENCE_REASON_NOT_APPLICABLE
    assert alone.advice == mesh.ABSENCE_POLICY_DROP
    # With the other value still to be had, the one that is there should be asked again with it.
    got = run(make(SHAPE, "{helpful: wait}"), [{"helpful": 1.0}, {"helpful": lost}])
    assert [each.advice for each in got] == [mesh.ABSENCE_POLICY_WAIT] * 2
    assert got[0].applied == {}
    assert got[1].applied == {"helpful": mesh.ABSENCE_POLICY_WAIT}


def test_statistics_wait_for_the_whole_group(make: Any, run: Any) -> None:
    got = run(make(SHAPE), [{"helpful": 1.0}, {"helpful": 2.0}, {"helpful": PENDING}])
    assert [each.pending for each in got] == [{"helpful"}] * 3


def test_only_over_the_group(refusal: Any) -> None:
    assert refusal("{of: helpful, shape: {standardise: batch}}").startswith("reward.shape.standardise.over: Input should be 'group'")
