"""Completions go on from a prefix of a preferred answer: the policy learns from states it would not yet reach by itself.

Chang et al. 2024, "Dataset Reset Policy Optimization for RLHF" (arXiv 2404.08495), algorithm 1: with probability beta an episode starts
from a random position of a preferred answer, else from the prompt. The prefix is part of the prompt for the policy and of the answer for
the reward program; only what the policy adds is learned from. Departure: all completions of a prompt start from the same position, so that
a group's baseline is that of one state.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pydantic import Field

from rewardmesh.trainer.samplers._base import Draw, Sampler, SamplerConfig, StepContext

if TYPE_CHECKING:
    from rewardmesh.trainer.prompts import Prompt


class ResetConfig(SamplerConfig):
    """How often, and how far into the answer."""

    probability: float = Field(0.5, ge=0, le=1, description="prompts whose completions start from a prefix")
    longest: float = Field(0.75, gt=0, lt=1, description="greatest share of the preferred answer's tokens that is given")


class Reset(Sampler):
    """Gives the draws a prefix of the prompt's first demonstration, of a length uniform over its tokens; without one, none."""

    name = "reset"

    def __init__(self, config: ResetConfig) -> None:
        self.config = config

    def draw(self, context: StepContext, prompt: Prompt, draws: list[Draw]) -> list[Draw]:
        """The same draws from another state."""
        rng = context.rng(self.name, prompt.id)
        if not prompt.demonstrations or rng.random() >= self.config.probability:
            return draws
        ids = context.codec.encode(prompt.demonstrations[0])
        longest = int(len(ids) * self.config.longest)
        if longest < 1:
            return draws
        prefix = tuple(ids[: int(rng.integers(1, longest + 1))])
        return [replace(draw, prefix=prefix) for draw in draws]


Config = ResetConfig
create = Reset
