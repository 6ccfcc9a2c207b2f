"""Rankings of several judges made one, by position or by duel. Pure functions; matrices as in `serving.rankings`.

Scores order answers, the greatest first; equal scores are a tie. Borda (1781): positions are points. Copeland (1951): duels won by
majority are points, so that a Condorcet winner, who wins them all, has the score 1. Departure: both are given as shares in [0, 1], a tie
counts half, and members have weights.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from rewardmesh.client import pack_floats, unpack_floats
from rewardmesh.serving.rankings import AGGREGATIONS, Matrix, cycle_rate, met
from rewardmesh.v1 import judge_service_pb2 as api

Scores = Sequence[float]
Aggregation: TypeAlias = "api.RankAggregation.ValueType"


def borda(scores: Sequence[Scores], weights: Sequence[float]) -> list[float]:
    """Share of the others that each answer is placed above, a tie half, mean over m members by weight."""
    rows = np.asarray([[place / (len(row) - 1) for place in _places(row)] for row in scores], dtype=np.float64)
    mean: list[float] = np.average(rows, axis=0, weights=weights).tolist()
    return mean


def majority(scores: Sequence[Scores], weights: Sequence[float]) -> Matrix:
    """Share of the members' weight that places i above j, a tie half: [n, n] from m rows of n scores."""
    rows = np.asarray(scores, dtype=np.float64)
    above = (rows[:, :, None] > rows[:, None, :]) + 0.5 * (rows[:, :, None] == rows[:, None, :])
    # Rounded, so that a duel that ends even by weights such as 0.1, 0.2 and 0.3 is even.
    return np.asarray(np.average(above, axis=0, weights=weights), dtype=np.float64).round(12)


def mean_matrix(matrices: Sequence[Matrix], weights: Sequence[float]) -> Matrix:
    """Weighted mean of [n, n] matrices, entry by entry over those that know it; NaN where none does."""
    stack = np.stack(matrices)
    known = ~np.isnan(stack)
    scale = np.asarray(weights, dtype=np.float64)[:, None, None] * known
    total = scale.sum(axis=0)
    mean = np.where(known, stack * scale, 0).sum(axis=0) / np.where(total > 0, total, 1)
    return np.where(total > 0, mean, np.nan)


def kendall_tau(x: Scores, y: Scores) -> float:
    """Kendall's tau-a in [-1, 1] of two rankings of n >= 2: concordant less discordant pairs as a share of all; a tie is neither."""
    pairs = list(itertools.combinations(range(len(x)), 2))
    return sum(_sign(x[i] - x[j]) * _sign(y[i] - y[j]) for i, j in pairs) / len(pairs)


def aggregated(matrix: Matrix, aggregation: Aggregation, *, concordance: float, verdicts: int) -> api.Ranking:
    """The ranking by the pairwise probabilities, scored as the caller asks; every answer has a verdict against some other."""
    known = met(matrix)
    behind = known * (verdicts / max(known.sum() / 2, 1))
    return ranking(AGGREGATIONS[aggregation](matrix, behind), matrix, concordance=concordance, verdicts=verdicts)


def ranking(scores: Scores, matrix: Matrix, *, concordance: float, verdicts: int) -> api.Ranking:
    """The message; of equal scores the first answer comes first."""
    return api.Ranking(
        order=sorted(range(len(scores)), key=lambda i: -scores[i]),
        pair_matrix=api.PreferenceMatrix(probabilities=pack_floats(matrix.flatten().tolist()), size=len(scores)),
        scores=scores,
        kendall_w=concordance,
        cycle_rate=cycle_rate(matrix),
        verdicts=verdicts,
    )


def matrix_of(found: api.Ranking) -> Matrix:
    """The pairwise probabilities of a ranking; from its scores alone where it brings none."""
    size = len(found.scores)
    if not found.pair_matrix.size:
        return majority([found.scores], [1.0])
    values = unpack_floats(found.pair_matrix.probabilities)
    return np.asarray(values, dtype=np.float64).reshape(size, size)


def reordered(found: api.Ranking, shown: Sequence[int]) -> api.Ranking:
    """A ranking of answers that were shown in another order, told of the first order; `shown[k]` is the place of the k-th shown."""
    back = np.argsort(np.asarray(shown))
    scores = [found.scores[place] for place in back]
    result = ranking(scores, matrix_of(found)[np.ix_(back, back)], concordance=found.kendall_w, verdicts=found.verdicts)
    result.order[:] = [shown[place] for place in found.order]
    return result


def _places(scores: Scores) -> list[float]:
    """How many others each answer is placed above, a tie half."""
    return [sum((own > other) + 0.5 * (own == other) for other in scores) - 0.5 for own in scores]


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)
