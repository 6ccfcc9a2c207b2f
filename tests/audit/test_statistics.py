"""The statistics against numbers that are known, and against simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rewardmesh.audit.statistics import (
    bootstrap,
    calibrating_temperature,
    crossed_mean,
    difference,
    logit,
    mean,
    sigmoid,
    slopes,
    verdicts,
    wilson,
)


@pytest.mark.parametrize(
    ("k", "n", "low", "high"), [(0, 10, 0.0, 0.27753), (10, 10, 0.72247, 1.0), (5, 10, 0.23659, 0.76341), (81, 263, 0.25530, 0.36621)]
)
def test_wilson(k: int, n: int, low: float, high: float) -> None:
    assert list(wilson(k, n)) == pytest.approx([low, high], abs=1e-4)


def test_newcombe() -> None:
    # 56/70 against 48/80: the example of Newcombe's paper, method 10.
    found = difference(np.arange(70) < 56, np.arange(80) < 48)
    assert [found.value, found.low, found.high] == pytest.approx([0.2, 0.0524, 0.3339], abs=1e-4)


def test_bootstrap_interval_of_a_mean_is_the_normal_one() -> None:
    values = np.random.default_rng(0).normal(3, 2, 400)
    found = mean(values, seed=1)
    half = 1.96 * values.std() / math.sqrt(400)
    assert found.low == pytest.approx(values.mean() - half, abs=0.05)
    assert found.high == pytest.approx(values.mean() + half, abs=0.05)
    assert mean(values, seed=1) == found


def test_undefined_draws_are_left_out_and_undefined_statistics_raise() -> None:
    flags = np.array([1.0, 0.0, 0.0])
    found = bootstrap(lambda index: float("nan") if not flags[index].any() else 1.0, 3, seed=0)
    assert (found.low, found.high) == (1.0, 1.0)
    with pytest.raises(ValueError, match="not defined"):
        bootstrap(lambda index: float("nan"), 3, seed=0)


def test_crossed_mean_is_wider_than_one_over_cells() -> None:
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(20, 1)) + rng.normal(size=(1, 10)) + 0.1 * rng.normal(size=(20, 10))
    crossed, cells = crossed_mean(matrix, 0), mean(matrix.ravel(), 0)
    assert crossed.value == pytest.approx(cells.value)
    assert crossed.low is not None
    assert cells.low is not None
    assert crossed.value - crossed.low > 2 * (cells.value - cells.low)
    matrix[0, 0] = np.nan
    assert crossed_mean(matrix, 0).n == 199


def test_logit_is_finite_and_shrinks_votes() -> None:
    assert np.isfinite(logit([0.0, 1.0])).all()
    assert sigmoid(logit([0.2, 0.9])) == pytest.approx([0.2, 0.9])
    assert logit(1.0, votes=1) == pytest.approx(math.log(3))


def test_slopes_and_collinear_columns() -> None:
    x = np.random.default_rng(0).normal(size=(50, 2))
    found = slopes(x, x @ np.array([2.0, -1.0]))
    assert found == pytest.approx([2.0, -1.0])
    assert slopes(np.column_stack([x[:, 0], x[:, 0]]), x[:, 1]) is None


def test_temperature_is_recovered() -> None:
    rng = np.random.default_rng(0)
    true = rng.normal(0, 2, 4000)
    wins = (rng.random(4000) < sigmoid(true)).astype(np.float64)
    assert calibrating_temperature(3 * true, wins) == pytest.approx(3, rel=0.1)


def test_float32_makes_no_winner() -> None:
    assert verdicts([0.5 + 1e-8, 0.6, 0.4]).tolist() == [0, 1, -1]
