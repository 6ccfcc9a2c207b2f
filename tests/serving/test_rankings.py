"""Scores from pairwise verdicts: matrices whose solutions are known, and what must hold for all of them."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rewardmesh.serving.rankings import AGGREGATIONS, ELO_PER_NAT, Matrix, beaten, bradley_terry, elo, mean_wins
from rewardmesh.v1 import judge_service_pb2 as api

NAN = float("nan")


def consistent(strengths: list[float]) -> Matrix:
    """The matrix of Bradley-Terry strengths (nats)."""
    logs = np.array(strengths)
    matrix: Matrix = 1 / (1 + np.exp(logs[None, :] - logs[:, None]))
    return matrix


@given(st.lists(st.floats(-2, 2), min_size=2, max_size=8))
def test_bradley_terry_finds_the_strengths_behind_a_consistent_matrix(strengths: list[float]) -> None:
    found = bradley_terry(consistent(strengths), prior=0)
    assert found == pytest.approx([s - sum(strengths) / len(strengths) for s in strengths], abs=1e-5)


def test_bradley_terry_of_pairs_that_do_not_all_meet() -> None:
    matrix = consistent([1.0, 0.0, -2.0, 0.5])
    for i, j in ((0, 2), (1, 3)):
        matrix[i, j] = matrix[j, i] = NAN
    assert bradley_terry(matrix, prior=0) == pytest.approx([1.125, 0.125, -1.875, 0.625], abs=1e-5)


def test_two_answers_by_hand() -> None:
    # With the prior: the greatest of .8 log s(d) + .2 log s(-d) + .05 (log s(d/2) + log s(-d/2)) for either of them.
    matrix = np.array([[0.5, 0.8], [0.2, 0.5]])
    first, second = bradley_terry(matrix)
    slope = 0.8 - 1 / (1 + math.exp(second - first)) + 0.1 * (0.5 - 1 / (1 + math.exp(-first)))
    assert slope == pytest.approx(0, abs=1e-8)
    assert first == pytest.approx(-second)
    assert bradley_terry(matrix, prior=0) == pytest.approx([math.log(4) / 2, -math.log(4) / 2])
    assert elo(consistent([math.log(10), 0.0]), np.full((2, 2), 1e6)) == pytest.approx([1200, 800], abs=0.01)


def test_a_sweep_stays_finite_and_more_verdicts_make_it_surer() -> None:
    sweep = np.array([[0.5, 1, 1], [0, 0.5, 1], [0, 0, 0.5]])
    once, often = bradley_terry(sweep), bradley_terry(sweep, np.full((3, 3), 10.0))
    assert all(map(math.isfinite, once + often))
    assert once[0] > once[1] > once[2]
    assert often[0] > once[0]
    apart = np.full((4, 4), NAN)
    np.fill_diagonal(apart, 0.5)
    apart[0, 1], apart[1, 0], apart[2, 3], apart[3, 2] = 0.9, 0.1, 0.9, 0.1
    assert bradley_terry(apart)[0] == pytest.approx(bradley_terry(apart)[2])


def test_borda_counts_majorities() -> None:
    matrix = np.array([[0.5, 0.51, 0.99], [0.49, 0.5, 0.5], [0.01, 0.5, 0.5]])
    assert beaten(matrix) == [1.0, 0.25, 0.25]
    assert mean_wins(matrix) == pytest.approx([0.75, 0.495, 0.255])


@st.composite
def matrices(draw: st.DrawFn) -> Matrix:
    """Complementary probabilities of 3 to 6 answers, each of which has met another."""
    size = draw(st.integers(3, 6))
    upper = draw(arrays(np.float64, (size, size), elements=st.floats(0, 1) | st.just(NAN)))
    matrix = np.full((size, size), 0.5)
    for i, j in itertools.combinations(range(size), 2):
        matrix[i, j], matrix[j, i] = upper[i, j], 1 - upper[i, j]
    for i in range(size):  # the ring is known
        j = (i + 1) % size
        if math.isnan(matrix[i, j]):
            matrix[i, j], matrix[j, i] = 0.5, 0.5
    return matrix


@settings(max_examples=40)
@given(matrices(), st.randoms())
@pytest.mark.parametrize("kind", [kind for kind in AGGREGATIONS if kind])
def test_scores_do_not_depend_on_the_order_of_the_answers(kind: api.RankAggregation.ValueType, matrix: Matrix, random: object) -> None:
    counts = np.ones_like(matrix)
    scores = AGGREGATIONS[kind](matrix, counts)
    order = list(range(len(matrix)))
    random.shuffle(order)  # type: ignore[attr-defined]
    moved = AGGREGATIONS[kind](matrix[np.ix_(order, order)], counts)
    assert moved == pytest.approx([scores[i] for i in order], abs=1e-6)


@settings(max_examples=40)
@given(matrices())
@pytest.mark.parametrize(
    ("kind", "centre"),
    [
        (api.RANK_AGGREGATION_MEAN_WINS, 1.0),
        (api.RANK_AGGREGATION_BORDA, 1.0),
        (api.RANK_AGGREGATION_BRADLEY_TERRY, 0.0),
        (api.RANK_AGGREGATION_ELO, 2000.0),
    ],
)
def test_reversed_verdicts_reverse_the_scores(kind: api.RankAggregation.ValueType, centre: float, matrix: Matrix) -> None:
    counts = np.ones_like(matrix)
    there, back = AGGREGATIONS[kind](matrix, counts), AGGREGATIONS[kind](matrix.T, counts)
    assert [a + b for a, b in zip(there, back, strict=True)] == pytest.approx([centre] * len(there), abs=1e-5)


def test_elo_is_bradley_terry_on_another_scale() -> None:
    matrix = consistent([1.0, 0.3, -0.4])
    assert elo(matrix) == pytest.approx([1000 + ELO_PER_NAT * strength for strength in bradley_terry(matrix)])
