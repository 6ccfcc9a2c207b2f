"""From groups to the scores a policy gradient may use: who has one, what it is, and what is taken off it.

The raw score is the composed reward (or, for the pairwise policy gradient, the mean win probability over the group). It is normalised
by running statistics and clipped (PPO-max: Zheng et al. 2023, arXiv 2307.04964, section 5), then penalties are taken off: one for a
completion that was cut before it ended (Huang et al. 2024, arXiv 2403.17031), and DAPO's for one that comes close to the length limit
(soft overlong punishment: Yu et al. 2025, arXiv 2503.14476, equation 13). Penalties come last so that clipping cannot hide them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from rewardmesh.trainer.credit.admission import LeftOut, admitted
from rewardmesh.trainer.credit.preferences import win_rates
from rewardmesh.trainer.credit.statistics import RunningStatistics
from rewardmesh.trainer.samples import Group, Rollout, all_rollouts

DoubleArray = npt.NDArray[np.float64]
WinMatrix = Callable[[Group, Sequence[int]], DoubleArray]
"""(group, indices of k rollouts) -> float64[k, k]: probability that the row's is better than the column's, NaN where nobody said."""


@dataclass(frozen=True)
class ScoreRule:
    """How a raw score becomes the score that is learned from.

    `statistics`, when given, are the run's so far: scores are normalised by them and the batch's own together. `clip` bounds the score
    to +- itself. `missing_eos_penalty` is taken off a completion with finish_reason "length". The overlong penalty rises from 0 at
    `max_tokens - overlong_buffer` tokens to `overlong_penalty` at `max_tokens`; a buffer of 0 means none.
    """

    statistics: RunningStatistics | None = None
    clip: float | None = None
    missing_eos_penalty: float = 0.0
    max_tokens: int = 0
    overlong_buffer: int = 0
    overlong_penalty: float = 1.0

    def __call__(self, scores: DoubleArray, rollouts: Sequence[Rollout]) -> DoubleArray:
        """float64[n] -> float64[n]: the scores of `rollouts` to learn from. The batch must be in `statistics` already."""
        if self.statistics is not None:
            scores = (scores - self.statistics.mean) / (self.statistics.std + 1e-8)
        if self.clip is not None:
            scores = scores.clip(-self.clip, self.clip)
        return scores - np.array([self.penalty(rollout) for rollout in rollouts], dtype=np.float64)

    def penalty(self, rollout: Rollout) -> float:
        """What is taken off the score of `rollout`, at least 0."""
        cut = self.missing_eos_penalty if rollout.finish_reason == "length" else 0.0
        if self.overlong_buffer == 0:
            return cut
        over = rollout.length - (self.max_tokens - self.overlong_buffer)
        return cut + self.overlong_penalty * min(max(over / self.overlong_buffer, 0.0), 1.0)

    def with_batch(self, scores: DoubleArray) -> "ScoreRule":
        """The rule whose statistics hold the batch's raw scores too."""
        return self if self.statistics is None else replace(self, statistics=self.statistics.with_scores(scores))


@dataclass(frozen=True)
class ScoredGroup:
    """The k sampled rollouts of a group that have a score: `indices` in it, `scores` float64[k] raw.

    `greedy` is the index of the greedy rollout, which is a baseline and no sample of the policy; None where there is none with a score.
    """

    group: Group
    indices: tuple[int, ...]
    scores: DoubleArray
    greedy: int | None

    @property
    def rollouts(self) -> list[Rollout]:
        """Those at `indices`."""
        return [self.group.rollouts[index] for index in self.indices]


def scored_groups(
    groups: Sequence[Group], left_out: LeftOut, *, needs_reference: bool, win_matrix: WinMatrix | None = None
) -> list[ScoredGroup]:
    """The groups with at least one scored sample; everything else is entered in `left_out`, greedy rollouts as "greedy_baseline".

    With `win_matrix` the score of a rollout is its mean probability of beating another of its group; where nobody compared it with
    any other it is left out as "no_preference". ValueError for rollout ids met twice.
    """
    all_rollouts(groups)
    found = []
    for group in groups:
        kept = admitted(group, left_out, needs_reference=needs_reference)
        greedy = [index for index in kept if group.rollouts[index].source == "greedy"]
        for index in greedy:
            left_out.sample(group.rollouts[index], "greedy_baseline")
        sampled = [index for index in kept if index not in greedy]
        scores = np.array([group.scores[index].reward for index in sampled], dtype=np.float64)
        if win_matrix is not None and sampled:
            scores = win_rates(win_matrix(group, sampled), ~np.eye(len(sampled), dtype=bool))
            for index, score in zip(sampled, scores.tolist(), strict=True):
                if np.isnan(score):
                    left_out.sample(group.rollouts[index], "no_preference")
            sampled = [index for index, score in zip(sampled, scores.tolist(), strict=True) if not np.isnan(score)]
            scores = scores[~np.isnan(scores)]
        if sampled:
            found.append(ScoredGroup(group, tuple(sampled), scores, greedy[0] if greedy else None))
    return found
