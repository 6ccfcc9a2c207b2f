"""From pairwise verdicts to a ranking, with what it rests on. Pure functions.

Answers are ordered by mean win probability. Kendall's W with tie correction (Kendall and Babington Smith, 1939) measures how far the two
orders of presentation, taken as two judges, agree; the cycle rate how far the verdicts are no order at all.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from statistics import fmean

import numpy as np
import numpy.typing as npt

from rewardmesh.judge.questions import Answer
from rewardmesh.judge.verdicts import preference
from rewardmesh.serving.validation import absence
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import judge_service_pb2 as api

Matrix = npt.NDArray[np.float64]


def rank(size: int, verdicts: Sequence[Answer]) -> api.Ranking | pb.Absence:
    """Ranking from the verdicts on all pairs (i < j); an answer without any verdict takes its group's ranking with it."""
    if size < 2:
        return absence(pb.ABSENCE_REASON_INVALID_INPUT, f"completions: at least 2 are needed, there are {size}")
    given, swapped = np.full((size, size), np.nan), np.full((size, size), np.nan)
    np.fill_diagonal(given, 0.5)
    np.fill_diagonal(swapped, 0.5)
    judged = set()
    for (i, j), verdict in zip(itertools.combinations(range(size), 2), verdicts, strict=True):
        if verdict.absence is None:
            result = preference(*verdict.probabilities)
            given[i, j], swapped[i, j] = result.p_a_as_given, result.p_a_swapped
            given[j, i], swapped[j, i] = 1 - given[i, j], 1 - swapped[i, j]
            judged |= {i, j}
    if len(judged) < size:
        lost = next(verdict.absence for verdict in verdicts if verdict.absence)
        return absence(lost.reason, f"an answer has no verdict against any other: {lost.detail}", retryable=lost.retryable)
    return ranking(given, swapped)


def ranking(given: Matrix, swapped: Matrix) -> api.Ranking:
    """Order n answers.

    Args:
        given, swapped: [n, n] probabilities that i is better than j, from either order of presentation; the diagonal 0.5; NaN where
            there is no verdict; every answer has a verdict against some other.
    """
    matrix = (given + swapped) / 2
    scores = mean_wins(matrix)
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    packed = pb.Float32Array(data=matrix.astype("<f4").tobytes(), length=matrix.size)
    return api.Ranking(
        order=order,
        pair_matrix=api.PreferenceMatrix(probabilities=packed, size=len(scores)),
        scores=scores,
        kendall_w=kendall_w([mean_wins(given), mean_wins(swapped)]),
        cycle_rate=cycle_rate(matrix),
    )


def mean_wins(matrix: Matrix) -> list[float]:
    """Mean probability of each answer to win against those that it has a verdict against."""
    others = ~np.eye(len(matrix), dtype=bool) & ~np.isnan(matrix)
    wins: list[float] = (np.where(others, matrix, 0).sum(axis=1) / others.sum(axis=1)).tolist()
    return wins


def kendall_w(scores: Sequence[Sequence[float]]) -> float:
    """Concordance in [0, 1] of m rankings of n items given by scores; equal scores share a rank; 1 when no ranking tells items apart."""
    m, n = len(scores), len(scores[0])
    ranks = [_ranks(row) for row in scores]
    totals = [sum(column) for column in zip(*ranks, strict=True)]
    spread = sum((total - fmean(totals)) ** 2 for total in totals)
    ties = sum(count**3 - count for row in ranks for count in (row.count(rank) for rank in set(row)))
    possible = m * m * (n**3 - n) - m * ties
    return min(12 * spread / possible, 1.0) if possible else 1.0


def cycle_rate(matrix: Matrix) -> float:
    """Share of the triples with all three verdicts whose majority verdicts form a cycle; 0 when there is no such triple."""
    cycles = triples = 0
    for i, j, k in itertools.combinations(range(len(matrix)), 3):
        path = (matrix[i, j], matrix[j, k], matrix[k, i])
        if not any(map(math.isnan, path)):
            triples += 1
            cycles += all(p > 0.5 for p in path) or all(p < 0.5 for p in path)
    return cycles / triples if triples else 0.0


def _ranks(scores: Sequence[float]) -> list[float]:
    """Rank of each score from 1, equal ones share the mean of theirs."""
    ascending = sorted(scores)
    return [ascending.index(score) + (ascending.count(score) + 1) / 2 for score in scores]
