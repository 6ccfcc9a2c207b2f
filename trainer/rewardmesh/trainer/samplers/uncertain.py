"""Before judging: only the rollouts that are hardest to tell apart go to the reward program, where its answer says most.

Active preference selection (Muldrew et al. 2024, "Active Preference Learning for Large Language Models", arXiv 2402.08114, chooses by the
policy's own uncertainty): a comparison whose outcome is nearly known is not worth a judgement. Uncertainty is either a small margin between
neighbours, by the policy's own preference (sum log pi - log pi_ref, DPO's implicit reward over beta) or by a cheap program's reward; or the
spread of a cheap program's reward model. The others are NOT_SELECTED absences: left out, counted, and never a score.
Not to be mixed up with `large_margin`, which chooses after judging, and the other way round.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from rewardmesh.trainer.samplers._base import Asks, Sampler, SamplerConfig, StepContext
from rewardmesh.trainer.samplers._scores import DoubleArray
from rewardmesh.trainer.samples import Rollout

if TYPE_CHECKING:
    from rewardmesh.trainer.prompts import Prompt


class UncertainConfig(SamplerConfig):
    """What is cheap to know, and how many rollouts are worth more."""

    judge: int = Field(2, ge=1, description="rollouts of a prompt that are judged")
    by: Literal["log_ratio", "reward", "spread"] = Field(
        "log_ratio", description="the policy's log-ratio to the reference, a cheap program's reward, or the spread of its reward models"
    )
    program: str = Field("", description="reward and spread: the cheap program at the gateway")

    @model_validator(mode="after")
    def _a_program_says_rewards(self) -> Self:
        if (self.by == "log_ratio") == bool(self.program):
            raise ValueError("program: is for by: reward and by: spread, which need it")
        return self


class Uncertain(Sampler):
    """Selects `judge` rollouts of each prompt; one that nothing is known of is most uncertain of all, and selected first."""

    name = "uncertain"
    selects = True

    def __init__(self, config: UncertainConfig) -> None:
        self.config = config
        self.completions_min = config.judge
        self.needs_logprob = config.by == "log_ratio"

    async def select(self, context: StepContext, prompt: Prompt, rollouts: Sequence[Rollout], asks: Asks) -> list[int]:
        """Indices of the rollouts to judge."""
        if len(rollouts) <= self.config.judge:
            return list(range(len(rollouts)))
        known = await self._known(prompt, rollouts, asks)
        return most_spread(known, self.config.judge) if self.config.by == "spread" else closest(known, self.config.judge)

    async def _known(self, prompt: Prompt, rollouts: Sequence[Rollout], asks: Asks) -> DoubleArray:
        if self.config.by == "log_ratio":
            pairs = zip(rollouts, await asks.reference(rollouts), strict=True)
            return np.array([np.nan if base is None else _sum(rollout.sampling_log_probs) - _sum(base) for rollout, base in pairs])
        scores = await asks.scores(prompt, rollouts, self.config.program)
        if self.config.by == "reward":
            return np.array([np.nan if one.reward is None else one.reward for one in scores])
        return np.array([max(one.spreads.values(), default=np.nan) for one in scores])


def closest(values: DoubleArray, count: int) -> list[int]:
    """Indices of the `count` values that lie closest together: unknown (NaN) ones first, then the narrowest run of sorted values."""
    unknown = np.flatnonzero(np.isnan(values))[:count]
    wanted = count - len(unknown)
    order = np.argsort(np.where(np.isnan(values), np.inf, values), kind="stable")[: int((~np.isnan(values)).sum())]
    chosen = list(unknown)
    if wanted:
        widths = values[order][wanted - 1 :] - values[order][: len(order) - wanted + 1]
        first = int(np.argmin(widths))
        chosen += list(order[first : first + wanted])
    return sorted(int(index) for index in chosen)


def most_spread(values: DoubleArray, count: int) -> list[int]:
    """Indices of the `count` greatest values, unknown (NaN) ones first, then in order of appearance."""
    order = np.argsort(-np.where(np.isnan(values), np.inf, values), kind="stable")
    return sorted(int(index) for index in order[:count])


def _sum(values: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> float:
    return float(np.sum(values, dtype=np.float64))


Config = UncertainConfig
create = Uncertain
