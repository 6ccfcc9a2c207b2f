"""An extra greedy completion a prompt, which ReMax takes its baseline from.

Li et al. 2023, "ReMax: A Simple, Effective, and Efficient Reinforcement Learning Method for Aligning Large Language Models" (arXiv
2310.10505), section 4: the reward of argmax decoding is the baseline of the sampled completions. The rollout's source is "greedy"; that it
is no sample of the policy is for the algorithm to heed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rewardmesh.trainer.samplers._base import Draw, Sampler, SamplerConfig, StepContext

if TYPE_CHECKING:
    from rewardmesh.trainer.prompts import Prompt


class GreedyConfig(SamplerConfig):
    """There is nothing to set."""


class Greedy(Sampler):
    """Adds one draw at temperature 0, from the same prefix as the others."""

    name = "greedy"

    def __init__(self, config: GreedyConfig) -> None:
        self.config = config

    def draw(self, context: StepContext, prompt: Prompt, draws: list[Draw]) -> list[Draw]:
        """The draws before, and the greedy one; none where nothing is sampled."""
        return [*draws, *_greedy(draws)]


def _greedy(draws: Sequence[Draw]) -> list[Draw]:
    return [Draw(1, "greedy", prefix=draws[0].prefix)] if draws else []


Config = GreedyConfig
create = Greedy
