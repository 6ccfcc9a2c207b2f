"""The shape `linear`."""

from __future__ import annotations

from typing import Any


def test_values_and_scales(make: Any, run: Any) -> None:
    program = make("{of: correct, shape: {linear: {scale: -2, offset: 1}}}")
    assert [each.value for each in run(program, [{"correct": 0.0}, {"correct": 1.0}])] == [1.0, -1.0]
    assert program.reward.scale.name == "bounded [-1, 1]"
    assert make("{of: helpful, shape: {linear: {scale: 2}}}").reward.scale.name == "logit"
