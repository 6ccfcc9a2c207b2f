"""From pairwise verdicts to one score an answer, and how far rankings agree: what judges and panels share. Pure functions.

A matrix is [n, n] of probabilities that i is better than j, the diagonal 0.5, NaN where there is no verdict.

The Bradley-Terry model says that i beats j with probability s_i / (s_i + s_j). Its log-strengths maximise the likelihood of soft counts
(a verdict of 0.7 is 0.7 of a win and 0.3 of a loss). It is concave in them, and Newton's method finds its greatest in about ten steps;
the minorisation-maximisation of Hunter (2004, Annals of Statistics 32) finds the same in thousands where an answer wins all. `PRIOR`
verdicts that end even, of each answer against one of strength 1, keep the strengths finite then, and comparable when the pairs fall apart
into groups. Elo points are the same strengths on another scale. Kendall's W: Kendall and Babington Smith 1939, with tie correction.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

import numpy as np
import numpy.typing as npt

from rewardmesh.v1 import judge_service_pb2 as api

Matrix = npt.NDArray[np.float64]

PRIOR = 0.1
ELO_MEAN, ELO_PER_NAT = 1000.0, 400 / math.log(10)
_TOLERANCE = 1e-10
_MOST_STEPS = 200
_LONGEST_STEP = 2.0


def mean_wins(matrix: Matrix) -> list[float]:
    """Mean probability of each answer to win against those that it has a verdict against; every answer has one."""
    others = met(matrix)
    wins: list[float] = (np.where(others, matrix, 0).sum(axis=1) / others.sum(axis=1)).tolist()
    return wins


def beaten(matrix: Matrix) -> list[float]:
    """Share of those that an answer met which it beats by majority verdict, a tie counts half: Borda's count of duels, Copeland's score."""
    others = met(matrix)
    won = np.where(others, (matrix > 0.5) + 0.5 * (matrix == 0.5), 0)
    shares: list[float] = (won.sum(axis=1) / others.sum(axis=1)).tolist()
    return shares


def bradley_terry(matrix: Matrix, verdicts: Matrix | None = None, *, prior: float = PRIOR) -> list[float]:
    """Log-strengths in nats, mean 0.

    Args:
        matrix: [n, n] probabilities that i is better than j, NaN where there is no verdict.
        verdicts: [n, n] symmetric numbers of verdicts behind each; None for one a pair.
        prior: even verdicts of each answer against one of strength 1; 0 gives the plain estimate, which may be infinite.
    """
    counts = np.where(met(matrix), 1.0 if verdicts is None else verdicts, 0.0)
    wins = (np.nan_to_num(matrix) * counts).sum(axis=1) + prior / 2
    logs = np.zeros(len(matrix))
    for _ in range(_MOST_STEPS):
        chances = _logistic(logs[:, None] - logs[None, :])
        alone = _logistic(logs)
        gradient = wins - (counts * chances).sum(axis=1) - prior * alone
        curvature = counts * chances * (1 - chances)
        hessian = np.diag(curvature.sum(axis=1) + prior * alone * (1 - alone)) - curvature
        # Without a prior only differences count: of all solutions the least one is taken.
        step = np.linalg.lstsq(hessian, gradient, rcond=None)[0]
        # A full step may leap far ahead where the likelihood is flat.
        step *= min(1.0, _LONGEST_STEP / max(np.abs(step).max(), 1e-300))
        logs = logs + step
        if np.abs(step).max() < _TOLERANCE:
            break
    centred: list[float] = (logs - logs.mean()).tolist()
    return centred


def elo(matrix: Matrix, verdicts: Matrix | None = None) -> list[float]:
    """The same strengths as Elo points, mean 1000: 400 points are odds of 10 to 1."""
    return [ELO_MEAN + ELO_PER_NAT * strength for strength in bradley_terry(matrix, verdicts)]


AGGREGATIONS: Mapping[api.RankAggregation.ValueType, Callable[[Matrix, Matrix], list[float]]] = {
    api.RANK_AGGREGATION_UNSPECIFIED: lambda matrix, _: mean_wins(matrix),
    api.RANK_AGGREGATION_MEAN_WINS: lambda matrix, _: mean_wins(matrix),
    api.RANK_AGGREGATION_BORDA: lambda matrix, _: beaten(matrix),
    api.RANK_AGGREGATION_BRADLEY_TERRY: bradley_terry,
    api.RANK_AGGREGATION_ELO: elo,
}
"""(probabilities, numbers of verdicts) -> scores, best greatest."""


def kendall_w(scores: Sequence[Sequence[float]]) -> float:
    """Concordance in [0, 1] of m rankings of n items given by scores; equal scores share a rank; 1 when no ranking tells items apart, or
    there is only one."""
    if len(scores) < 2:
        return 1.0
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


def met(matrix: Matrix) -> npt.NDArray[np.bool_]:
    """[n, n] whether two different answers have a verdict."""
    found: npt.NDArray[np.bool_] = ~np.eye(len(matrix), dtype=bool) & ~np.isnan(matrix)
    return found


def _logistic(x: Matrix) -> Matrix:
    return np.asarray(0.5 * (1 + np.tanh(x / 2)))


def _ranks(scores: Sequence[float]) -> list[float]:
    """Rank of each score from 1, equal ones share the mean of theirs."""
    ascending = sorted(scores)
    return [ascending.index(score) + (ascending.count(score) + 1) / 2 for score in scores]
