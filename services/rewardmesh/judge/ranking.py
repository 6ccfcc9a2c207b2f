"""A ranking with what it rests on. Pure functions.

Kendall's W with tie correction (Kendall and Babington Smith, 1939) measures how far several rankings agree: those of the repeats, or with
one repeat those of the two orders in which pairs were shown. The cycle rate measures how far the verdicts are no order at all.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from rewardmesh.serving.rankings import AGGREGATIONS, Matrix, cycle_rate, kendall_w, mean_wins
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import judge_service_pb2 as api


def ranking(
    matrices: Sequence[Matrix], aggregation: api.RankAggregation.ValueType, *, rankings: Sequence[Matrix], verdicts: int
) -> api.Ranking:
    """Order n answers.

    Args:
        matrices: [n, n] each: probabilities that i is better than j, the diagonal 0.5, NaN where there is no verdict; every answer has a
            verdict against some other in one of them.
        rankings: those whose agreement is measured.
        verdicts: how many are behind them.
    """
    matrix, counts = combined(matrices)
    scores = AGGREGATIONS[aggregation](matrix, counts)
    packed = pb.Float32Array(data=matrix.astype("<f4").tobytes(), length=matrix.size)
    return api.Ranking(
        order=sorted(range(len(scores)), key=lambda i: -scores[i]),
        pair_matrix=api.PreferenceMatrix(probabilities=packed, size=len(scores)),
        scores=scores,
        kendall_w=kendall_w([mean_wins(each) for each in rankings if complete(each)]),
        cycle_rate=cycle_rate(matrix),
        verdicts=verdicts,
    )


def combined(matrices: Sequence[Matrix]) -> tuple[Matrix, Matrix]:
    """[n, n] means over the matrices that have a verdict on a pair (NaN where none has), and how many have."""
    stacked = np.stack(matrices)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mean of empty slice", RuntimeWarning)
        mean: Matrix = np.nanmean(stacked, axis=0)
    counts: Matrix = (~np.isnan(stacked)).sum(axis=0).astype(np.float64)
    return mean, counts


def complete(matrix: Matrix) -> bool:
    """Whether every answer has a verdict against some other."""
    return bool((~np.isnan(matrix)).sum(axis=1).min() > 1)
