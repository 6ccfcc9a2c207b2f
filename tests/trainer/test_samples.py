"""Rollout, Scores and Group refuse what does not fit together, naming the field."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from rewardmesh.trainer.samples import Group, Rollout, Scores, all_rollouts


def test_rollout_keeps_compact_arrays(make_rollout: Callable[..., Rollout]) -> None:
    rollout = make_rollout("a", "g", [-1.0, -2.0])
    assert rollout.completion_ids.dtype == np.int32
    assert rollout.sampling_log_probs.dtype == np.float32
    assert rollout.length == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": ""}, "id must not be empty"),
        ({"finish_reason": "eos"}, "finish_reason of a"),
        ({"prompt_ids": np.zeros(0)}, "prompt_ids of a"),
        ({"completion_ids": np.zeros((1, 2))}, "completion_ids of a"),
        ({"sampling_log_probs": np.zeros(3)}, "sampling_log_probs of a has 3 values for 2"),
        ({"sampling_log_probs": np.array([0, np.nan])}, "sampling_log_probs of a must be finite"),
    ],
)
def test_rollout_names_what_is_wrong(make_rollout: Callable[..., Rollout], change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(make_rollout("a", "g", [-1.0, -2.0]), **change)  # type: ignore[arg-type]


@pytest.mark.parametrize(("reward", "absence"), [(None, None), (1.0, "DEADLINE"), (float("nan"), None), (float("inf"), None), (None, "")])
def test_a_score_is_a_finite_reward_or_a_named_absence(reward: float | None, absence: str | None) -> None:
    with pytest.raises(ValueError, match=r"reward|absence"):
        Scores(reward=reward, absence=absence)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rollouts": (), "scores": ()}, "rollouts of group g"),
        ({"scores": (Scores(1.0),)}, "scores of group g has 1"),
        ({"id": "h"}, "group_id of rollout g/0"),
        ({"preferences": np.zeros((1, 2))}, "preferences of group g has shape"),
        ({"preferences": np.full((2, 2), 1.5)}, "preferences of group g must lie"),
        ({"reference_log_probs": (None,)}, "reference_log_probs of group g has 1"),
        ({"reference_log_probs": (np.zeros(9), None)}, "reference_log_probs of g/0 has shape"),
        ({"reference_log_probs": (np.full(2, np.nan), None)}, "reference_log_probs of g/0 must be finite"),
    ],
)
def test_group_names_what_is_wrong(make_group: Callable[..., Group], change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(make_group("g", [0.0, 1.0]), **change)  # type: ignore[arg-type]


def test_group_without_references_has_none_each(make_group: Callable[..., Group]) -> None:
    assert replace(make_group("g", [0.0, 1.0]), reference_log_probs=()).reference_log_probs == (None, None)


def test_ids_are_distinct_within_a_group_and_over_a_batch(make_group: Callable[..., Group]) -> None:
    group = make_group("g", [0.0, 1.0])
    with pytest.raises(ValueError, match="distinct ids"):
        replace(group, rollouts=(group.rollouts[0], group.rollouts[0]))
    with pytest.raises(ValueError, match="met twice: g/0, g/1"):
        all_rollouts([group, group])
