"""After judging: of each prompt the rollouts whose rewards differ most, and of the prompts those where they differ enough.

What was judged anyway is cheap to choose from, and a pair with a large margin is rarely labelled wrong: iterative DPO's best against worst
(Dong et al. 2024, "RLHF Workflow", arXiv 2405.07863) as a stage that any algorithm can follow. The choice before judging is `uncertain`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import Field

from rewardmesh.trainer.samplers._base import Sampler, SamplerConfig, StepContext
from rewardmesh.trainer.samplers._scores import DoubleArray, scored, win_rates
from rewardmesh.trainer.samples import Group


class LargeMarginConfig(SamplerConfig):
    """How many rollouts, how far apart."""

    keep: int = Field(2, ge=2, description="rollouts of a prompt: half of them the best, half the worst; the odd one is a best one")
    by: Literal["reward", "preferences"] = Field("reward", description="the composed reward, or the judge's win rate within the group")
    min_margin: float = Field(0.0, ge=0, description="least difference of best and worst, on the scale of `by`")
    share: float = Field(1.0, gt=0, le=1, description="of the groups, those with the largest margins that are kept")


class LargeMargin(Sampler):
    """Keeps the extremes of each group and the groups with the largest differences; rollouts without a score stay out."""

    name = "large_margin"
    completions_min = 2

    def __init__(self, config: LargeMarginConfig) -> None:
        self.config = config

    def keep(self, context: StepContext, groups: Sequence[Group]) -> list[Group | None]:
        """Parts of the groups; of equal margins the earlier group is kept."""
        found = [self._extremes(group) for group in groups]
        margins = np.array([margin for _, margin in found])
        enough = int(np.ceil(self.config.share * len(groups)))
        widest = set(np.argsort(-margins, kind="stable")[:enough].tolist())
        return [
            group.take(indices) if place in widest and indices and margin >= self.config.min_margin else None
            for place, (group, (indices, margin)) in enumerate(zip(groups, found, strict=True))
        ]

    def _extremes(self, group: Group) -> tuple[list[int], float]:
        """Indices, ascending, and the margin; (none, -1) for a group with fewer than two known rollouts."""
        indices = scored(group)
        strength = self._strength(group, indices)
        known = [(index, value) for index, value in zip(indices, strength.tolist(), strict=True) if not np.isnan(value)]
        if len(known) < 2:
            return [], -1.0
        order = [index for index, _ in sorted(known, key=lambda item: -item[1])]
        best, worst = (self.config.keep + 1) // 2, self.config.keep // 2
        values = [value for _, value in known]
        chosen = order if len(order) <= self.config.keep else order[:best] + order[-worst:]
        return sorted(chosen), max(values) - min(values)

    def _strength(self, group: Group, indices: Sequence[int]) -> DoubleArray:
        if self.config.by == "preferences":
            return win_rates(group, indices)
        return np.array([group.scores[index].reward for index in indices], dtype=np.float64)


Config = LargeMarginConfig
create = LargeMargin
