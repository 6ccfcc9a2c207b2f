"""How likely each rollout of a group is to be better than each other: the judge's word, or the Bradley-Terry probability of the rewards.

A tie is .5; what nobody said is NaN, never .5. A win rate is a rollout's mean probability of beating the others (Swamy et al. 2024,
arXiv 2401.04056; Rosset et al. 2024, arXiv 2404.03715): unlike a reward it exists for preferences that go in circles.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from rewardmesh.trainer.samples import Group

LabelSource = Literal["reward", "preferences", "mixed", "win_rate"]
DoubleArray = npt.NDArray[np.float64]


def win_probabilities(group: Group, kept: Sequence[int], source: LabelSource, reward_temperature: float) -> DoubleArray:
    """float64[n, n] over the `kept` rollouts: probability that the row's is better than the column's; NaN where nobody said.

    "mixed" takes the judge's preference where there is one and the Bradley-Terry probability of the rewards elsewhere; "win_rate" the
    Bradley-Terry probability, at temperature 1, of the win rates that "mixed" gives.
    """
    rewards = np.array([group.scores[index].reward for index in kept], dtype=np.float64)
    from_reward = bradley_terry(rewards, reward_temperature)
    if source == "reward":
        return from_reward
    judged = np.full_like(from_reward, np.nan)
    if group.preferences is not None:
        one_way = np.asarray(group.preferences, dtype=np.float64)[np.ix_(kept, kept)]
        other_way = 1 - one_way.T
        judged = np.where(np.isnan(one_way), other_way, np.where(np.isnan(other_way), one_way, (one_way + other_way) / 2))
    if source == "preferences":
        return judged
    mixed = np.where(np.isnan(judged), from_reward, judged)
    return mixed if source == "mixed" else bradley_terry(win_rates(mixed, ~np.eye(len(kept), dtype=bool)), 1.0)


def bradley_terry(rewards: DoubleArray, temperature: float) -> DoubleArray:
    """float64[n, n]: sigmoid((r_i - r_j) / temperature) of rewards float64[n]."""
    return 0.5 * (1 + np.tanh((rewards[:, None] - rewards[None, :]) / (2 * temperature)))


def win_rates(probability: DoubleArray, against: npt.NDArray[np.bool_]) -> DoubleArray:
    """float64[n]: mean of each row of `probability` float64[n, n] where `against` bool[n, n] is True and it is known; NaN for none."""
    known = against & ~np.isnan(probability)
    count = known.sum(axis=1)
    return np.where(count > 0, np.where(known, probability, 0).sum(axis=1) / np.maximum(count, 1), np.nan)
