"""Only groups whose rewards differ, and further prompts until the step has enough of them.

Yu et al. 2025, "DAPO: An Open-Source LLM Reinforcement Learning System at Scale" (arXiv 2503.14476), equation 11: a group in which all
completions are right, or all wrong, has no advantage and no gradient; prompts are drawn until the batch is full of groups that have one.
Departures: the rounds are bounded, and a step that is not full after the last is smaller, not a failure.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from rewardmesh.trainer.samplers._base import Sampler, SamplerConfig, StepContext
from rewardmesh.trainer.samplers._scores import signal
from rewardmesh.trainer.samples import Group


class DynamicConfig(SamplerConfig):
    """When a group teaches something, and how long to look for such groups."""

    rounds: int = Field(4, ge=1, description="most rounds of prompts, the first included")
    component: str = Field("", description="signal whose spread counts; empty for the composed reward")
    min_std: float = Field(1e-6, ge=0, description="a group is kept when the standard deviation of its rewards exceeds this")


class Dynamic(Sampler):
    """Drops groups without variance and asks for as many prompts again; rollouts without a score do not count as variance."""

    name = "dynamic"

    def __init__(self, config: DynamicConfig) -> None:
        self.config = config

    def keep(self, context: StepContext, groups: Sequence[Group]) -> list[Group | None]:
        """Whole groups, or None."""
        return [group if self._varies(group) else None for group in groups]

    def further(self, context: StepContext, kept: int, round_: int) -> int:
        """The prompts that are missing; 0 after the last round."""
        return context.size - kept if round_ < self.config.rounds else 0

    def _varies(self, group: Group) -> bool:
        values = [value for scores in group.scores if (value := signal(scores, self.config.component)) is not None]
        return len(values) > 1 and float(np.std(values)) > self.config.min_std


Config = DynamicConfig
create = Dynamic
