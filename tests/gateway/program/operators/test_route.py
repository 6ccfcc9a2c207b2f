"""The route: tags decide before anything is asked."""

from __future__ import annotations

from typing import Any

import pytest

from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import mesh_service_pb2 as mesh

ROUTE = "{route: {by: task, cases: {math: correct, chat: prefer}, default: graded}}"


def test_only_the_signals_of_the_case_are_needed(make: Any) -> None:
    reward = make(ROUTE).reward
    assert reward.needs({"task": "math"}) == {"correct"}
    assert reward.needs({"task": "chat"}) == {"prefer"}
    assert reward.needs({"task": "poetry"}) == reward.needs({}) == {"graded"}


def test_each_sample_gets_the_value_of_its_case(make: Any, run: Any) -> None:
    got = run(make(ROUTE), [{"graded": 0.25}, {"correct": 1.0}, {"prefer": 0.75}], [{}, {"task": "math"}, {"task": "chat"}])
    assert [each.value for each in got] == [0.25, 1.0, 0.75]


def test_group_statistics_are_over_the_case(make: Any, run: Any) -> None:
    program = make("{route: {by: task, cases: {chat: {of: helpful, shape: {standardise: group}}}, default: correct}}")
    got = run(program, [{"helpful": 1.0}, {"correct": 1.0}, {"helpful": 3.0}], [{"task": "chat"}, {}, {"task": "chat"}])
    assert [each.value for each in got] == [-1.0, 1.0, 1.0]


def test_a_sample_without_a_case_has_no_reward(make: Any, run: Any) -> None:
    [unknown, untagged] = run(make("{route: {by: task, cases: {math: correct}}}"), [{}, {}], [{"task": "art"}, {}])
    assert unknown.value is None
    assert unknown.absence.reason == untagged.absence.reason == pb.ABSENCE_REASON_NOT_APPLICABLE
    assert unknown.absence.detail == "tag 'task' is 'art'; the program has cases math"
    assert untagged.advice == mesh.ABSENCE_POLICY_DROP


def test_a_default_of_zero_is_a_default(make: Any, run: Any) -> None:
    assert run(make("{route: {by: task, cases: {math: correct}, default: 0.0}}"), [{}])[0].value == 0.0


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        ("{route: {by: task, cases: {}, default: correct}}", "reward.route.cases: Dictionary should have at least 1 item"),
        ("{route: {by: task, cases: {a: correct, b: helpful}}}", "reward.route.cases.b: a logit value cannot stand beside"),
        ("{route: {by: task, cases: {a: correct}, default: helpful}}", "reward.route.default: a logit value cannot stand beside"),
        ("{route: {cases: {a: correct}}}", "reward.route.by: is required"),
    ],
)
def test_routes_that_mean_nothing_are_refused(refusal: Any, reward: str, message: str) -> None:
    assert refusal(reward).startswith(message)
