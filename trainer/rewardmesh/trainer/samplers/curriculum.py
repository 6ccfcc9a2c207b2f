"""Prompts that are neither mastered nor hopeless come first, by their running success rate.

A completion's reward has the variance p(1 - p) at success rate p, and with it the gradient its size: prompts near one half teach most
(the observation of Foster et al. 2025, "Learning to Reason at the Frontier of Learnability", arXiv 2502.12272). Departure: the rate is an
exponential average over the visits of this run, not a fresh estimate; a prompt never seen counts as `unseen`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from rewardmesh.trainer.samplers._base import Sampler, SamplerConfig, StepContext
from rewardmesh.trainer.samplers._scores import mean_signal
from rewardmesh.trainer.samples import Group

if TYPE_CHECKING:
    from rewardmesh.trainer.prompts import Prompt


class CurriculumConfig(SamplerConfig):
    """What a success is, and which rate is sought."""

    window: int = Field(2, ge=1, description="candidates for each prompt of a step")
    target: float = Field(0.5, ge=0, le=1, description="the success rate that comes first")
    component: str = Field("", description="signal in [0, 1] that says success; empty for the composed reward")
    decay: float = Field(0.5, ge=0, lt=1, description="weight of the rate before, when a prompt is visited again")
    unseen: float = Field(0.5, ge=0, le=1, description="rate assumed of a prompt never visited")


class Curriculum(Sampler):
    """Takes from a window of candidates those whose rate is nearest to the target; equally near ones in the run's order."""

    name = "curriculum"

    def __init__(self, config: CurriculumConfig) -> None:
        self.config = config
        self._rates: dict[str, float] = {}

    def candidates(self, size: int) -> int:
        """A window of them."""
        return size * self.config.window

    def choose(self, context: StepContext, prompts: Sequence[Prompt], size: int, taken: Mapping[str, Prompt]) -> list[Prompt]:
        """The nearest ones, nearest first."""
        return sorted(prompts, key=lambda prompt: abs(self._rates.get(prompt.id, self.config.unseen) - self.config.target))[:size]

    def observe(self, context: StepContext, groups: Sequence[Group]) -> None:
        """Move the rates of the prompts that the policy itself answered."""
        for group in groups:
            own = [scores for rollout, scores in zip(group.rollouts, group.scores, strict=True) if rollout.source == "policy"]
            rate = mean_signal(own, self.config.component)
            if rate is not None:
                before = self._rates.get(group.prompt_id, rate)
                self._rates[group.prompt_id] = self.config.decay * before + (1 - self.config.decay) * rate

    def metrics(self) -> dict[str, float]:
        """How many prompts have a rate."""
        return {"prompts_known": float(len(self._rates))}

    def state(self) -> dict[str, Any]:
        """The rates."""
        return {"rates": dict(self._rates)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore `state()`."""
        self._rates = dict(state["rates"])


Config = CurriculumConfig
create = Curriculum
