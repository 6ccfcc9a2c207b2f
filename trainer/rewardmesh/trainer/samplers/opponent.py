"""Some completions of each prompt come from another policy: the reference, or an earlier checkpoint.

Three methods are this one stage. XPO (Xie et al. 2024, arXiv 2405.21046) compares the policy's sample with the reference's. SPIN's
opponent (Chen et al. 2024, arXiv 2401.01335, see `spin`) is the policy of the iteration before. SePPO (Zhang et al. 2024, arXiv 2410.05255)
takes samples of earlier checkpoints in place of losing ones. The reward program scores such a completion like the others; what its source
means for the loss is the algorithm's business (XPO's `xpo`, SePPO's `seppo`). Departure from SePPO: the checkpoint is the one `lag` steps
back, not a random one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from rewardmesh.trainer.samplers._base import CheckpointRule, Draw, Sampler, SamplerConfig, StepContext

if TYPE_CHECKING:
    from rewardmesh.trainer.prompts import Prompt


class OpponentConfig(SamplerConfig):
    """Whose completions, and how many."""

    source: Literal["reference", "checkpoint"] = Field("reference", description="the initial policy, or an earlier one of this run")
    n: int = Field(1, ge=1, description="completions of a prompt that come from it, in place of the policy's")
    every: int = Field(1, ge=1, description="checkpoint: the policy of the newest step that is a multiple of this ...")
    lag: int = Field(1, ge=0, description="... and at least so many steps older than the present one")


class Opponent(Sampler):
    """Gives `n` of the policy's completions to the other policy."""

    name = "opponent"

    def __init__(self, config: OpponentConfig) -> None:
        self.config = config
        self.completions_min = config.n
        self._rule = CheckpointRule(config.every, config.lag) if config.source == "checkpoint" else CheckpointRule(0)
        self.checkpoint = self._rule

    def draw(self, context: StepContext, prompt: Prompt, draws: list[Draw]) -> list[Draw]:
        """As many completions as before. ValueError when the policy has fewer than `n` to give."""
        return given_away(draws, Draw(self.config.n, self.config.source, checkpoint=self._rule.at(context.number)))


def given_away(draws: list[Draw], other: Draw) -> list[Draw]:
    """`draws` with `other.n` of the policy's completions drawn as `other` says, from the same prefix."""
    for place, draw in enumerate(draws):
        if draw.source == "policy":
            if draw.n < other.n:
                raise ValueError(f"{other.n} of a prompt's completions are to come from the {other.source}, the policy has only {draw.n}")
            return [*draws[:place], replace(draw, n=draw.n - other.n), *draws[place + 1 :], replace(other, prefix=draw.prefix)]
    return draws


Config = OpponentConfig
create = Opponent
