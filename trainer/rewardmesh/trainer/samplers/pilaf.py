"""Pairs from interpolations of policy and reference, so that the gradient of the preference loss is that of the oracle reward.

Feng et al. 2025, "PILAF: Optimal Human Preference Sampling for Reward Modeling" (arXiv 2502.04270), the practical variant: with
probability one half both answers are the policy's; else one is drawn from pi+ and the other from pi-, whose logits are, token by token,
(1 + beta) h - beta h_ref and (1 - beta) h + beta h_ref. Departure: with k completions, k/2 come from either side, all of a prompt's
from the same half of the coin.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pydantic import Field

from rewardmesh.trainer.samplers._base import Draw, Sampler, SamplerConfig, StepContext

if TYPE_CHECKING:
    from rewardmesh.trainer.prompts import Prompt


class PilafConfig(SamplerConfig):
    """How far from the policy the pairs reach."""

    beta: float = Field(0.1, ge=0, description="extrapolation; the beta of the preference loss")
    share: float = Field(0.5, ge=0, le=1, description="prompts whose answers are interpolated")


class Pilaf(Sampler):
    """Splits the policy's completions of some prompts between the two sides."""

    name = "pilaf"
    needs_logprob = True
    needs_policy_logits = True
    completions_min = 2

    def __init__(self, config: PilafConfig) -> None:
        self.config = config

    def draw(self, context: StepContext, prompt: Prompt, draws: list[Draw]) -> list[Draw]:
        """The same number of completions; an odd one is drawn from the side of the policy."""
        if context.rng(self.name, prompt.id).random() >= self.config.share:
            return draws
        split: list[Draw] = []
        for draw in draws:
            if draw.source != "policy":
                split.append(draw)
                continue
            for n, weight in (((draw.n + 1) // 2, -self.config.beta), (draw.n // 2, self.config.beta)):
                split.append(replace(draw, n=n, source="mixture", reference_weight=weight))
        return split


Config = PilafConfig
create = Pilaf
