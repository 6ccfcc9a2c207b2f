"""The shape `log_sigmoid`."""

from __future__ import annotations

import math
from typing import Any

import pytest


def test_values(make: Any, run: Any) -> None:
    program = make("{of: helpful, shape: {log_sigmoid: {centre: 1}}}")
    got = run(program, [{"helpful": value} for value in (1.0, 3.0, -1e30, 1e30)])
    assert [each.value for each in got] == pytest.approx([-math.log(2), -math.log1p(math.exp(-2)), -1e30, 0.0])
    assert program.reward.scale.name == "log_prob"
