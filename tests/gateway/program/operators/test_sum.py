"""The weighted sum: what may be added, and what it comes to."""

from __future__ import annotations

from typing import Any

import pytest

from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import mesh_service_pb2 as mesh


def test_terms_are_weighted_and_added(make: Any, run: Any) -> None:
    program = make("{sum: [correct, {of: graded, weight: 0.5}, 0.25]}")
    [got] = run(program, [{"correct": 1.0, "graded": 0.5}])
    assert got.value == 1.5
    assert program.reward.scale.to_proto() == pb.Scale(kind=pb.SCALE_KIND_BOUNDED, min=0.25, max=1.75)


def test_negative_weights_turn_the_bounds(make: Any) -> None:
    assert make("{sum: [correct, {of: graded, weight: -2}]}").reward.scale.to_proto() == pb.Scale(kind=pb.SCALE_KIND_BOUNDED, min=-2, max=1)


def test_one_missing_term_leaves_no_sum(make: Any, run: Any, lost: Any) -> None:
    [got] = run(make("{sum: [correct, graded]}"), [{"correct": 1.0, "graded": lost}])
    assert got.value is None
    assert got.absence.reason == pb.ABSENCE_REASON_INFRASTRUCTURE
    assert got.applied == {"graded": mesh.ABSENCE_POLICY_DROP}


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        ("{sum: [correct, helpful]}", "reward.sum[1]: a logit value cannot be added"),
        ("{sum: [{of: helpful, weight: 0.5}, {of: other, weight: 0.5}]}", "reward.sum[0]: a logit value cannot be added"),
        ("{sum: [correct, {of: helpful, shape: log_sigmoid}]}", "reward.sum[1]: a log_prob value cannot be added"),
        ("{sum: [correct, {of: helpful, shape: {linear: {scale: 0.1}}}]}", "reward.sum[1]: a logit value cannot be added"),
        ("{sum: {of: correct}}", "reward.sum: must be a list of at least one term"),
    ],
)
def test_what_cannot_be_added_is_refused(refusal: Any, reward: str, message: str) -> None:
    assert refusal(reward).startswith(message)


def test_what_may_be_added_beside_bounded_values(make: Any) -> None:
    log_probs = make("{sum: [{of: helpful, shape: log_sigmoid}, {of: other, shape: log_sigmoid}]}")
    assert log_probs.reward.scale.to_proto().kind == pb.SCALE_KIND_LOG_PROB
    standardised = make("{sum: [correct, {of: helpful, shape: {standardise: group}}]}")
    assert standardised.reward.scale.to_proto().kind == pb.SCALE_KIND_LOGIT
    assert make("{sum: [{of: helpful, weight: 2}]}").reward.scale.to_proto().kind == pb.SCALE_KIND_LOGIT
