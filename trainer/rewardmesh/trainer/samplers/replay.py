"""Verified successes of earlier steps join the fresh completions of their prompts.

Zhang et al. 2025, "RLEP: Reinforcement Learning with Experience Replay for LLM Reasoning" (arXiv 2507.07451): a group is G fresh
completions and M remembered ones that a verifier has passed; advantages are over the mixed group. Departures: the successes are those of
this run, not of a run before; a share of each step's prompts is revisited so that there is something to replay (a step has fewer prompts
while there is too little); a remembered completion keeps the log-probs of its own sampling, so that a clipped ratio is that to the policy
which really wrote it. It is scored again with its group: scores of two versions of a reward never meet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from rewardmesh.trainer.samplers._base import Given, Sampler, SamplerConfig, StepContext
from rewardmesh.trainer.samplers._memory import Memory
from rewardmesh.trainer.samplers._scores import signal
from rewardmesh.trainer.samples import Group, Rollout, Scores

if TYPE_CHECKING:
    from rewardmesh.trainer.prompts import Prompt


class ReplayConfig(SamplerConfig):
    """What is a success, and how much of a step comes from memory."""

    n: int = Field(2, ge=1, description="most remembered completions that join a prompt's fresh ones")
    component: str = Field("", description="signal that says success; empty for the composed reward")
    threshold: float = Field(1.0, description="least value of a success")
    per_prompt: int = Field(4, ge=1, description="successes remembered of a prompt, the newest")
    revisit: float = Field(0.25, ge=0, le=1, description="most of a step's prompts that are taken from memory")


class Replay(Sampler):
    """Remembers successes by prompt; those of the prompt at hand are replayed, a random few where there are more than `n`."""

    name = "replay"

    def __init__(self, config: ReplayConfig) -> None:
        self.config = config
        self._memory = Memory(config.per_prompt)

    def candidates(self, size: int) -> int:
        """Fresh prompts: all but those that can be revisited."""
        return size - min(int(size * self.config.revisit), len(self._memory.prompt_ids))

    def choose(self, context: StepContext, prompts: Sequence[Prompt], size: int, taken: Mapping[str, Prompt]) -> list[Prompt]:
        """The fresh prompts, then random ones that have a success."""
        fresh = list(prompts[:size])
        there = {prompt.id for prompt in fresh} | set(taken)
        old = [id_ for id_ in self._memory.prompt_ids if id_ not in there]
        count = min(size - len(fresh), int(size * self.config.revisit), len(old))
        if not count:
            return fresh
        places = context.rng(self.name, "prompts", str(len(taken))).choice(len(old), count, replace=False)
        return fresh + [context.prompts[old[place]] for place in places]

    def recall(self, context: StepContext, prompt: Prompt) -> list[Given]:
        """Successes of the prompt."""
        known = self._memory.of(prompt.id)
        if len(known) <= self.config.n:
            return known
        places = context.rng(self.name, prompt.id).choice(len(known), self.config.n, replace=False)
        return [known[place] for place in sorted(places.tolist())]

    def observe(self, context: StepContext, groups: Sequence[Group]) -> None:
        """Remember the new successes."""
        for group in groups:
            new = [rollout for rollout, scores in zip(group.rollouts, group.scores, strict=True) if self._succeeded(rollout, scores)]
            if new:
                self._memory.add(group.prompt_id, new)

    def metrics(self) -> dict[str, float]:
        """Size of the memory."""
        return {"remembered": float(self._memory.rollouts)}

    def state(self) -> dict[str, Any]:
        """The memory."""
        return {"memory": self._memory.state()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore `state()`."""
        self._memory.load_state(state["memory"])

    def _succeeded(self, rollout: Rollout, scores: Scores) -> bool:
        """An answer of the policy that is good enough; one that goes on from a given prefix is not an answer of its own."""
        value = signal(scores, self.config.component)
        fresh = rollout.source in {"policy", "greedy", "mixture"} and not rollout.prefix_tokens
        return fresh and rollout.length > 0 and value is not None and value >= self.config.threshold


Config = ReplayConfig
create = Replay
