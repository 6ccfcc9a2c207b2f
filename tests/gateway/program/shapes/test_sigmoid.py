"""The shape `sigmoid`."""

from __future__ import annotations

import math
from typing import Any

import pytest


def test_values(make: Any, run: Any) -> None:
    program = make("{of: helpful, shape: {sigmoid: {centre: 1, scale: 2}}}")
    got = run(program, [{"helpful": value} for value in (1.0, 3.0, -1e30, 1e30)])
    assert [each.value for each in got] == pytest.approx([0.5, 1 / (1 + math.exp(-1)), 0.0, 1.0])
    assert program.reward.scale.name == "unit"


def test_the_centre_of_a_group_is_the_mean_of_its_present_values(make: Any, run: Any, lost: Any) -> None:
    program = make("{of: helpful, shape: {sigmoid: {centre: group}}}", "{helpful: fallback(2)}")
    got = run(program, [{"helpful": value} for value in (1.0, 3.0, lost)])
    # The fallback is shaped with the centre, but does not move it.
    assert [each.value for each in got] == pytest.approx([1 / (1 + math.e), 1 / (1 + 1 / math.e), 0.5])


def test_a_group_without_present_values_has_no_centre(make: Any, run: Any, lost: Any) -> None:
    got = run(make("{of: helpful, shape: {sigmoid: {centre: group}}}", "{helpful: fallback(2)}"), [{"helpful": lost}] * 2)
    assert [each.value for each in got] == [None, None]
