"""Only the ranks of a group at which the reward can be trusted: the best, the worst, some at random.

Shen and Zhang 2024, "Policy Filtration in RLHF to Fine-Tune LLM for Code Generation" (PF-PPO, arXiv 2409.06957): among the completions of a
prompt sorted by reward, the middle ranks are where reward and truth agree least. Its filters are best-of-n (top 1), best and random
(top 1, random 1) and best and worst (top 1, bottom 1). Departure: the counts are options.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from pydantic import Field, model_validator

from rewardmesh.trainer.samplers._base import Sampler, SamplerConfig, StepContext
from rewardmesh.trainer.samples import Group


class RanksConfig(SamplerConfig):
    """How many of which ranks."""

    top: int = Field(1, ge=0, description="best rollouts of a group")
    bottom: int = Field(1, ge=0, description="worst ones")
    random: int = Field(0, ge=0, description="others, at random")

    @model_validator(mode="after")
    def _keeps_something(self) -> Self:
        if self.top + self.bottom + self.random == 0:
            raise ValueError("top, bottom, random: all are 0, which keeps nothing")
        return self


class Ranks(Sampler):
    """Keeps ranks by the composed reward; equal rewards keep the order of the group. A smaller group stays whole."""

    name = "ranks"

    def __init__(self, config: RanksConfig) -> None:
        self.config = config

    def keep(self, context: StepContext, groups: Sequence[Group]) -> list[Group | None]:
        """The filtered part of each group; None where nothing has a reward."""
        return [self._filtered(context, group) for group in groups]

    def _filtered(self, context: StepContext, group: Group) -> Group | None:
        rewards = [(reward, index) for index, scores in enumerate(group.scores) if (reward := scores.reward) is not None]
        order = [index for _, index in sorted(rewards, key=lambda item: (-item[0], item[1]))]
        top, bottom, others = self.config.top, self.config.bottom, self.config.random
        if len(order) > top + bottom + others:
            middle = order[top : len(order) - bottom]
            drawn = context.rng(self.name, group.id).choice(len(middle), others, replace=False)
            order = order[:top] + order[len(order) - bottom :] + [middle[place] for place in drawn]
        return group.take(sorted(order)) if order else None


Config = RanksConfig
create = Ranks
