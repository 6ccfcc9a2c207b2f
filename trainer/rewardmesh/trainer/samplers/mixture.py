"""Some completions of each prompt come from a geometric mixture of policy and reference, token by token.

Munos et al. 2023, "Nash Learning from Human Feedback" (arXiv 2312.00886), section 7: Nash-MD's opponent pi^(1-w) * pi_ref^w, here
normalised for every token (the paper's own approximation, for a mixture of whole sequences cannot be sampled from). Both policies'
logits come from the log-prob service's StreamNextLogits; the rollouts carry the mixture's own log-probs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from rewardmesh.trainer.samplers._base import Draw, Sampler, SamplerConfig, StepContext
from rewardmesh.trainer.samplers.opponent import given_away

if TYPE_CHECKING:
    from rewardmesh.trainer.prompts import Prompt


class MixtureConfig(SamplerConfig):
    """Which mixture, and how much of it."""

    n: int = Field(1, ge=1, description="completions of a prompt that come from the mixture, in place of the policy's")
    reference_weight: float = Field(0.5, ge=0, le=1, description="w in pi^(1-w) * pi_ref^w")


class Mixture(Sampler):
    """Gives `n` of the policy's completions to the mixture."""

    name = "mixture"
    needs_logprob = True
    needs_policy_logits = True

    def __init__(self, config: MixtureConfig) -> None:
        self.config = config
        self.completions_min = config.n

    def draw(self, context: StepContext, prompt: Prompt, draws: list[Draw]) -> list[Draw]:
        """As many completions as before. ValueError when the policy has fewer than `n` to give."""
        return given_away(draws, Draw(self.config.n, "mixture", reference_weight=self.config.reference_weight))


Config = MixtureConfig
create = Mixture
