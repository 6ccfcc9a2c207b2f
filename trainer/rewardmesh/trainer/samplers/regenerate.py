"""Of the prompts seen before only those with the lowest rewards are answered anew; the others bring their last answers again.

Chen et al. 2024, "OPTune: Efficient Online Preference Tuning" (arXiv 2406.07657): generation is most of the cost of a step, and prompts
that already score well gain least from new completions. Departure: answers that are brought again are scored again with the present
reward program, so that no group mixes scores of two versions; what is saved is generation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from rewardmesh.trainer.samplers._base import Draw, Given, Sampler, SamplerConfig, StepContext
from rewardmesh.trainer.samplers._memory import Memory
from rewardmesh.trainer.samplers._scores import mean_signal
from rewardmesh.trainer.samples import Group

if TYPE_CHECKING:
    from rewardmesh.trainer.prompts import Prompt


class RegenerateConfig(SamplerConfig):
    """How much is generated."""

    share: float = Field(0.5, ge=0, le=1, description="of the prompts of a round that were seen before, those answered anew")


class Regenerate(Sampler):
    """Remembers the last answers of every prompt with their mean reward; useful where prompts come again (see prompts.limit)."""

    name = "regenerate"

    def __init__(self, config: RegenerateConfig) -> None:
        self.config = config
        self._memory = Memory(per_prompt=1 << 30)
        self._rewards: dict[str, float] = {}
        self._again: set[str] = set()

    def choose(self, context: StepContext, prompts: Sequence[Prompt], size: int, taken: Mapping[str, Prompt]) -> list[Prompt]:
        """The same prompts; of those with remembered answers the best are marked to bring them again."""
        chosen = list(prompts[:size])
        seen = sorted((prompt.id for prompt in chosen if prompt.id in self._rewards), key=lambda id_: (self._rewards[id_], id_))
        anew = round(self.config.share * len(seen))
        self._again = set(seen[anew:])
        return chosen

    def draw(self, context: StepContext, prompt: Prompt, draws: list[Draw]) -> list[Draw]:
        """Nothing for a prompt that brings its last answers."""
        return [] if prompt.id in self._again else draws

    def recall(self, context: StepContext, prompt: Prompt) -> list[Given]:
        """The last answers."""
        return self._memory.of(prompt.id) if prompt.id in self._again else []

    def observe(self, context: StepContext, groups: Sequence[Group]) -> None:
        """Remember what was answered, where every answer is whole and has a reward."""
        for group in groups:
            mean = mean_signal(group.scores, "")
            whole = all(rollout.length and rollout.finish_reason != "aborted" and not rollout.prefix_tokens for rollout in group.rollouts)
            if mean is not None and whole:
                self._rewards[group.prompt_id] = mean
                if any(rollout.source != "replay" for rollout in group.rollouts):
                    self._memory.replace(group.prompt_id, group.rollouts)

    def metrics(self) -> dict[str, float]:
        """How many prompts of the last round brought old answers."""
        return {"brought_again": float(len(self._again))}

    def state(self) -> dict[str, Any]:
        """Answers and rewards."""
        return {"memory": self._memory.state(), "rewards": dict(self._rewards)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore `state()`."""
        self._memory.load_state(state["memory"])
        self._rewards = dict(state["rewards"])


Config = RegenerateConfig
create = Regenerate
