"""The arithmetic of votes and rankings, on elections whose results are known, and against other ways to compute it."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewardmesh.panel.points import merge_points
from rewardmesh.panel.rankings import aggregated, borda, kendall_tau, majority, matrix_of, mean_matrix, ranking, reordered
from rewardmesh.panel.voting import agreement, mean, median, pool_grades, pool_preferences, share_for
from rewardmesh.serving.rankings import beaten, cycle_rate, kendall_w, mean_wins
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import judge_service_pb2 as api

# The usual example of a state that chooses its capital: Memphis, Nashville, Chattanooga, Knoxville, and how many rank them so.
BALLOTS = [(3, 2, 1, 0), (0, 3, 2, 1), (0, 1, 3, 2), (0, 1, 2, 3)]
VOTERS = [42, 26, 15, 17]


def test_the_capital_of_tennessee() -> None:
    points = borda(BALLOTS, VOTERS)
    assert [round(point * 300) for point in points] == [126, 194, 173, 107]
    duels = majority(BALLOTS, VOTERS)
    assert duels[1, 0] == pytest.approx(0.58)
    assert duels[1, 2] == pytest.approx(0.68)
    assert beaten(duels) == [0.0, 1.0, pytest.approx(2 / 3), pytest.approx(1 / 3)]
    assert cycle_rate(duels) == 0


def test_a_condorcet_cycle_has_no_winner() -> None:
    duels = majority([(2, 1, 0), (0, 2, 1), (1, 0, 2)], [1, 1, 1])
    assert beaten(duels) == [0.5, 0.5, 0.5]
    assert cycle_rate(duels) == 1
    assert kendall_w([(2, 1, 0), (0, 2, 1), (1, 0, 2)]) == pytest.approx(0)


def test_unknown_pairs_are_left_out() -> None:
    known = np.array([[0.5, 0.9, np.nan], [0.1, 0.5, 0.4], [np.nan, 0.6, 0.5]])
    assert beaten(known) == [1.0, 0.0, 1.0]
    assert mean_wins(known) == pytest.approx([0.9, 0.25, 0.6])
    other = np.array([[0.5, 0.5, np.nan], [0.5, 0.5, 0.6], [np.nan, 0.4, 0.5]])
    both = mean_matrix([known, other], [3, 1])
    assert both[0, 1] == pytest.approx(0.8)
    assert math.isnan(both[0, 2])


@given(st.permutations(range(6)), st.permutations(range(6)))
def test_tau_counts_the_swaps_of_a_bubble_sort(x: list[int], y: list[int]) -> None:
    row, swaps = [y[x.index(place)] for place in range(6)], 0
    for _ in row:
        for i in range(5):
            if row[i] > row[i + 1]:
                row[i], row[i + 1], swaps = row[i + 1], row[i], swaps + 1
    assert kendall_tau(x, y) == pytest.approx(1 - 2 * swaps / 15)


@given(st.lists(st.permutations(range(5)), min_size=2, max_size=5))
def test_w_is_the_mean_spearman_correlation(rows: list[list[int]]) -> None:
    m = len(rows)
    rho = np.mean([np.corrcoef(a, b)[0, 1] for a, b in itertools.combinations(rows, 2)])
    assert kendall_w(rows) == pytest.approx(((m - 1) * rho + 1) / m)


def test_ties() -> None:
    assert kendall_tau((1, 1, 0), (2, 1, 0)) == pytest.approx(2 / 3)
    assert kendall_w([(1, 1, 0), (1, 1, 0)]) == pytest.approx(1)
    assert kendall_w([(1, 1), (2, 2)]) == 1
    assert borda([(1, 1, 0)], [1]) == [0.75, 0.75, 0]


def test_scores_on_the_scale_that_is_asked_for() -> None:
    matrix = np.array([[0.5, 0.75, 0.9], [0.25, 0.5, 0.75], [0.1, 0.25, 0.5]])  # odds of 3, 3 and 9: a Bradley-Terry model fits exactly
    wanted = {
        api.RANK_AGGREGATION_UNSPECIFIED: [0.825, 0.5, 0.175],
        api.RANK_AGGREGATION_BORDA: [1, 0.5, 0],
        api.RANK_AGGREGATION_BRADLEY_TERRY: [math.log(3), 0, -math.log(3)],
        api.RANK_AGGREGATION_ELO: [1000 + 400 * math.log10(3), 1000, 1000 - 400 * math.log10(3)],
    }
    for aggregation, scores in wanted.items():
        found = aggregated(matrix, aggregation, concordance=1, verdicts=60)
        assert list(found.scores) == pytest.approx(scores, rel=0.02, abs=1e-6)
        assert list(found.order) == [0, 1, 2]


def test_a_ranking_shown_in_another_order_is_told_back() -> None:
    shown = [2, 0, 1]
    matrix = np.array([[0.5, 0.9, 0.8], [0.1, 0.5, 0.3], [0.2, 0.7, 0.5]])
    found = reordered(ranking(mean_wins(matrix), matrix, concordance=0.5, verdicts=6), shown)
    assert list(found.order) == [2, 1, 0]
    assert found.scores == pytest.approx([0.2, 0.45, 0.85])
    back = matrix_of(found)
    for i, j in itertools.product(range(3), repeat=2):
        assert back[shown[i], shown[j]] == pytest.approx(matrix[i, j])
    assert (found.kendall_w, found.verdicts) == (0.5, 6)
    assert matrix_of(api.Ranking(order=[1, 0], scores=[0.2, 0.7]))[0, 1] == 0


def test_pools() -> None:
    values, weights = (0.9, 0.6, 0.1), (1.0, 1.0, 3.0)
    assert mean(values, weights) == pytest.approx(0.36)
    assert median(values, weights) == 0.1
    assert median(values, (1, 1, 1)) == 0.6
    assert median((0.2, 0.8), (1, 1)) == pytest.approx(0.5)
    assert share_for(values, weights) == pytest.approx(0.4)
    assert share_for((0.5, 0.9), (1, 1)) == 0.75
    assert agreement((0.5, 0.9, 0.8), (1, 1, 1)) == pytest.approx(2 / 3)


def test_strength_is_of_those_that_state_one() -> None:
    found = {
        "x": api.Preference(p_a=0.9, p_a_as_given=0.9, strength=0.5, unparsable_votes=2),
        "y": api.Preference(p_a=0.2, p_a_as_given=0.2),
    }
    verdict = pool_preferences(found, {"x": 1, "y": 1}, mean)
    assert verdict.strength == 0.5
    assert verdict.unparsable_votes == 2
    assert not pool_preferences({"y": found["y"]}, {"y": 1}, mean).HasField("strength")


def test_criteria_on_different_scales_and_of_single_members() -> None:
    found = {
        "x": api.Grades(
            grades=[api.Grade(criterion_id="clear", score=4, min=1, max=5), api.Grade(criterion_id="brief", score=2, max=4)], total=0.6
        ),
        "y": api.Grades(grades=[api.Grade(criterion_id="clear", score=0.25, max=1, p_yes=0.25, rationale="muddled")], total=0.25),
    }
    clear, brief = pool_grades(found, {"x": 1, "y": 1}, mean).grades
    assert (clear.score, clear.min, clear.max) == (0.5, 0, 1)
    assert not clear.HasField("p_yes")
    assert clear.rationale == "x: 4 of [1, 5]\ny: 0.25 of [0, 1], muddled"
    assert (brief.score, brief.max) == (2, 4)
    approved = pool_grades(found, {"x": 1, "y": 3}, mean, approve=True)
    assert approved.total == 0.25
    assert approved.vote_agreement == 0.75


def span(start: int, end: int, comment: str = "", value: float | None = None) -> pb.Span:
    return pb.Span(start=start, end=end, comment=comment, value=value, label="error")


def test_overlapping_points_are_one() -> None:
    points = {
        "x": [span(0, 10, "wrong sum", -1.0), span(20, 25, "vague")],
        "y": [span(4, 12, "19 is wrong", -0.5), span(40, 45, "rude")],
        "z": [span(5, 11), span(6, 9, "again")],
    }
    weights = {"x": 1.0, "y": 3.0, "z": 1.0}
    everything = merge_points(points, weights, min_votes=1, overlap=0.5)
    assert [(each.start, each.end) for each in everything] == [(4, 10), (20, 25), (40, 45)]
    (one,) = merge_points(points, weights, min_votes=4, overlap=0.5)
    assert one.comment == "x: wrong sum\ny: 19 is wrong\nz: again"
    assert one.value == pytest.approx(-0.625)
    assert one.label == "error"
    assert merge_points(points, weights, min_votes=6, overlap=0.5) == []  # a critic that says it twice has one vote
    apart = {"x": [span(0, 10)], "y": [span(4, 12)]}
    assert [len(merge_points(apart, weights, min_votes=1, overlap=overlap)) for overlap in (0.75, 0.8)] == [1, 2]
    assert not merge_points({}, {}, min_votes=1, overlap=0.5)
