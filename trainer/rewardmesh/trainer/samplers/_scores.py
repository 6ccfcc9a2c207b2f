"""Numbers that several samplers order rollouts and prompts by."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from rewardmesh.trainer.samples import Group, Scores

DoubleArray = npt.NDArray[np.float64]


def scored(group: Group) -> list[int]:
    """Indices of the rollouts that have a reward."""
    return [index for index, scores in enumerate(group.scores) if scores.reward is not None]


def signal(scores: Scores, component: str) -> float | None:
    """The composed reward, or the named signal's value where `component` is not empty; None where absent."""
    return scores.components.get(component) if component else scores.reward


def mean_signal(scores: Sequence[Scores], component: str) -> float | None:
    """Mean of what is present; None where nothing is."""
    values = [value for one in scores if (value := signal(one, component)) is not None]
    return float(np.mean(values)) if values else None


def win_rates(group: Group, indices: Sequence[int]) -> DoubleArray:
    """float64 [n]: each rollout's mean probability to beat the others at `indices`, by the judge; NaN where it said nothing.

    Where only one order of a pair was judged, that one counts; where both were, their mean.
    """
    if group.preferences is None:
        return np.full(len(indices), np.nan)
    one_way = np.asarray(group.preferences, dtype=np.float64)[np.ix_(indices, indices)]
    other_way = 1 - one_way.T
    both = np.where(np.isnan(one_way), other_way, np.where(np.isnan(other_way), one_way, (one_way + other_way) / 2))
    np.fill_diagonal(both, np.nan)
    known = ~np.isnan(both)
    said = np.maximum(known.sum(axis=1), 1)
    return np.where(known.any(axis=1), np.where(known, both, 0).sum(axis=1) / said, np.nan)
