"""Before training, the prompts with the lowest prior rewards are selected; the run then goes round and round over them.

Shen et al. 2025, "Exploring Data Scaling Trends and Effects in Reinforcement Learning from Human Feedback" (Pre-PPO, arXiv 2503.22230):
prompts that the initial policy already answers well leave little to learn and invite reward hacking. Departures: the prior is
the mean reward of a few samples of the initial policy, over the first prompts of the run; domains are not ranked separately;
prompts that could not be scored stay out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from rewardmesh.trainer.samplers._base import Asks, Sampler, SamplerConfig, StepContext
from rewardmesh.trainer.samplers._scores import mean_signal

if TYPE_CHECKING:
    from rewardmesh.trainer.prompts import Prompt


class PreselectConfig(SamplerConfig):
    """How many prompts are looked at, and how many stay."""

    prompts: int = Field(128, ge=1, description="prompts looked at, the first of the file")
    samples: int = Field(2, ge=1, description="completions of each by which it is ranked")
    share: float = Field(0.5, gt=0, le=1, description="of the prompts looked at, those with the lowest mean reward that stay")


class Preselect(Sampler):
    """Ranks once, at the first step, and gives every step its part of an endless shuffled walk over the selected prompts."""

    name = "preselect"

    def __init__(self, config: PreselectConfig) -> None:
        self.config = config
        self._selected: list[str] = []
        self._position = 0

    async def prepare(self, context: StepContext, asks: Asks) -> None:
        """Sample, score and rank, unless that has been done."""
        if self._selected:
            return
        looked_at = list(context.prompts.values())[: self.config.prompts]
        found = await asks.probe(looked_at, self.config.samples)
        priors = {id_: mean for id_, scores in found.items() if (mean := mean_signal(scores, "")) is not None}
        order = sorted(priors, key=lambda id_: (priors[id_], id_))
        self._selected = order[: max(round(self.config.share * len(order)), 1)]

    def choose(self, context: StepContext, prompts: Sequence[Prompt], size: int, taken: Mapping[str, Prompt]) -> list[Prompt]:
        """The next of the walk; `prompts` themselves where none could be ranked."""
        if not self._selected:
            return list(prompts[:size])
        chosen: dict[str, Prompt] = {}
        available = len([id_ for id_ in self._selected if id_ not in taken])
        while len(chosen) < min(size, available):
            lap, place = divmod(self._position, len(self._selected))
            order = np.random.default_rng([context.seed, lap]).permutation(len(self._selected))
            id_ = self._selected[order[place]]
            self._position += 1
            if id_ not in taken:
                chosen.setdefault(id_, context.prompts[id_])
        return list(chosen.values())

    def metrics(self) -> dict[str, float]:
        """How many prompts were selected."""
        return {"selected": float(len(self._selected))}

    def state(self) -> dict[str, Any]:
        """The selection and the place in the walk."""
        return {"selected": list(self._selected), "position": self._position}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore `state()`."""
        self._selected = list(state["selected"])
        self._position = int(state["position"])


Config = PreselectConfig
create = Preselect
