"""The shape operator: how shapes are found and given their arguments (each shape has its own test)."""

from __future__ import annotations

from typing import Any

import pytest


def test_a_shape_stands_anywhere_and_needs_no_arguments(make: Any, run: Any) -> None:
    assert run(make("{of: helpful, shape: sigmoid}"), [{"helpful": 0.0}])[0].value == 0.5
    assert run(make("{of: {of: helpful, shape: sigmoid}, shape: {linear: {scale: 2, offset: -1}}}"), [{"helpful": 0.0}])[0].value == 0.0


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        ("{shape: correct}", "reward.of: is required beside `shape`"),
        ("{of: helpful, shape: [sigmoid]}", "reward.shape: must be one shape: clip, linear"),
        ("{of: helpful, shape: {sigmoid: {}, clip: {}}}", "reward.shape: must be one shape"),
        ("{of: helpful, shape: {sigmoid: 3}}", "reward.shape.sigmoid: must be a mapping, is 3"),
        (
            "{of: helpful, shape: {sigmoid: {centre: x}}}",
            "reward.shape.sigmoid.centre: must be a number, group or baseline, is 'x'",
        ),
        ("{of: helpful, shape: {sigmoid: {scale: 0}}}", "reward.shape.sigmoid.scale: Input should be greater than 0"),
        ("{of: {sum: [helpful]}, shape: {sigmoid: {centre: baseline}}}", "reward.shape.sigmoid.centre: a baseline belongs to a signal"),
        ("{of: helpful}", "reward: must hold exactly one operator, holds 'of'"),
    ],
)
def test_mistakes_have_their_path(refusal: Any, reward: str, message: str) -> None:
    assert refusal(reward).startswith(message)


def test_a_stored_baseline_is_the_centre(make: Any, run: Any) -> None:
    program = make("{of: helpful, shape: {sigmoid: {centre: baseline}}}", baselines={"test/helpful": 3.0})
    assert run(program, [{"helpful": 3.0}])[0].value == 0.5
