"""The shape `clip`."""

from __future__ import annotations

from typing import Any


def test_values(make: Any, run: Any) -> None:
    program = make("{of: helpful, shape: {clip: {min: -2, max: 5}}}")
    got = run(program, [{"helpful": value} for value in (-3.0, 1.5, 8.0)])
    assert [each.value for each in got] == [-2.0, 1.5, 5.0]
    assert program.reward.scale.name == "bounded [-2, 5]"


def test_bounds_are_those_that_can_be_reached(make: Any) -> None:
    assert make("{of: correct, shape: {clip: {min: 0.25, max: 7}}}").reward.scale.name == "bounded [0.25, 1]"


def test_mistakes(refusal: Any) -> None:
    assert refusal("{of: helpful, shape: {clip: {min: 5, max: 5}}}") == "reward.shape.clip: min must be less than max, are 5.0 and 5.0"
    assert refusal("{of: helpful, shape: clip}") == "reward.shape.clip.min: is required"
