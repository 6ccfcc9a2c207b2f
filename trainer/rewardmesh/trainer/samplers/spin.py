"""Self-play against earlier samples: a demonstration of each prompt beats what the policy of the iteration before answered.

Chen et al. 2024, "Self-Play Fine-Tuning Converts Weak Language Models to Strong Language Models" (arXiv 2401.01335), equation 4.7: the
preference loss of DPO with the demonstration as chosen and the opponent's sample as rejected. The labels are written into the group's
preferences, so use it with `label_source: preferences`. Departures: the reference stays the initial policy (the paper's moves with the
opponent); the completions are scored by the reward program all the same, and one without a score is in no pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from rewardmesh.trainer.samplers._base import CheckpointRule, Draw, Given, Sampler, SamplerConfig, StepContext
from rewardmesh.trainer.samples import Group

if TYPE_CHECKING:
    from rewardmesh.trainer.prompts import Prompt


class SpinConfig(SamplerConfig):
    """When the opponent catches up."""

    every: int = Field(10, ge=1, description="steps of an iteration, over which the opponent stays the policy of its beginning")


class Spin(Sampler):
    """The opponent writes all completions, the demonstration joins them and wins."""

    name = "spin"

    def __init__(self, config: SpinConfig) -> None:
        self.config = config
        self._rule = CheckpointRule(config.every)
        self.checkpoint = self._rule

    def draw(self, context: StepContext, prompt: Prompt, draws: list[Draw]) -> list[Draw]:
        """The policy's draws become the opponent's."""
        at = self._rule.at(context.number)
        return [replace(draw, source="checkpoint", checkpoint=at) if draw.source == "policy" else draw for draw in draws]

    def recall(self, context: StepContext, prompt: Prompt) -> list[Given]:
        """The prompt's first demonstration; none for a prompt without."""
        return [Given(tuple(context.codec.answer(text)), "demonstration") for text in prompt.demonstrations[:1]]

    def keep(self, context: StepContext, groups: Sequence[Group]) -> list[Group | None]:
        """Groups with a demonstration, which beats every other rollout; two others are not compared."""
        return [_labelled(group) for group in groups]


def _labelled(group: Group) -> Group | None:
    shown = np.array([rollout.source == "demonstration" for rollout in group.rollouts])
    if not shown.any() or shown.all():
        return None
    wins = np.where(shown[:, None] & ~shown[None, :], 1.0, np.where(~shown[:, None] & shown[None, :], 0.0, np.nan))
    return replace(group, preferences=wins)


Config = SpinConfig
create = Spin
