"""The gate: which branch is taken, and whose absence matters."""

from __future__ import annotations

from typing import Any

import pytest

from rewardmesh.gateway.program import PENDING
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import mesh_service_pb2 as mesh

GATE = "{gate: {if: correct, then: graded, else: -0.5}}"


def test_the_condition_chooses_the_branch(make: Any, run: Any) -> None:
    program = make(GATE)
    got = run(program, [{"correct": value, "graded": 0.75} for value in (1.0, 0.5, 0.49, 0.0)])
    assert [each.value for each in got] == [0.75, 0.75, -0.5, -0.5]
    assert program.reward.scale.to_proto() == pb.Scale(kind=pb.SCALE_KIND_BOUNDED, min=-0.5, max=1)


def test_at_least_moves_the_threshold(make: Any, run: Any) -> None:
    got = run(make("{gate: {if: correct, at_least: 1, then: graded, else: 0}}"), [{"correct": v, "graded": 0.75} for v in (1.0, 0.9)])
    assert [each.value for each in got] == [0.75, 0.0]


def test_an_absence_in_the_branch_not_taken_is_harmless(make: Any, run: Any, lost: Any) -> None:
    [taken, left] = run(make(GATE), [{"correct": 1.0, "graded": lost}, {"correct": 0.0, "graded": lost}])
    assert taken.value is None
    assert taken.applied == {"graded": mesh.ABSENCE_POLICY_DROP}
    assert left.value == -0.5
    assert left.applied == {}


def test_an_absent_condition_takes_no_branch(make: Any, run: Any, hopeless: Any) -> None:
    [got] = run(make(GATE, "{correct: resample}"), [{"correct": hopeless, "graded": 0.75}])
    assert got.value is None
    assert got.absence.reason == pb.ABSENCE_REASON_UNPARSABLE
    assert got.advice == mesh.ABSENCE_POLICY_RESAMPLE


def test_a_fallback_of_the_condition_is_recorded(make: Any, run: Any, hopeless: Any) -> None:
    [got] = run(make(GATE, "{correct: fallback(0)}"), [{"correct": hopeless, "graded": 0.75}])
    assert got.value == -0.5
    assert got.applied == {"correct": mesh.ABSENCE_POLICY_FALLBACK}


def test_pending_signals_matter_only_where_they_may_decide(make: Any, run: Any) -> None:
    waiting, decided = run(make(GATE), [{"correct": 1.0, "graded": PENDING}, {"correct": 0.0, "graded": PENDING}])
    assert waiting.pending == {"graded"}
    assert decided.pending == frozenset()
    assert decided.value == -0.5


def test_standardised_sums_may_stand_beside_constants(make: Any) -> None:
    program = make("{gate: {if: correct, then: {sum: [{of: helpful, shape: {standardise: group}, weight: 1e-1}, correct]}, else: -1}}")
    assert program.reward.scale.to_proto().kind == pb.SCALE_KIND_LOGIT


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        ("{gate: {if: helpful, then: 1, else: 0}}", "reward.gate.at_least: is required: a logit condition"),
        ("{gate: {if: correct, then: helpful, else: 0}}", "reward.gate.then: a logit value cannot stand beside the other branch's"),
        ("{gate: {if: correct, then: helpful, else: other}}", "reward.gate.then: a logit value cannot stand beside"),
        ("{gate: {if: correct, then: 1, else: 0}, note: x}", "reward.note: unknown field beside 'gate'"),
        ("{gate: [correct]}", "reward.gate: must be a mapping, is a list"),
    ],
)
def test_gates_that_mean_nothing_are_refused(refusal: Any, reward: str, message: str) -> None:
    assert refusal(reward).startswith(message)
