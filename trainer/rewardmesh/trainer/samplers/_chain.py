"""The samplers of a recipe as one: each stage goes through them in order, and what each leaves out is counted under its name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rewardmesh.trainer.samplers._base import Asks, CheckpointRule, Draw, Given, Sampler, StepContext
from rewardmesh.trainer.samples import Group, Rollout

if TYPE_CHECKING:
    from rewardmesh.trainer.prompts import Prompt

Take = Callable[[int], list["Prompt"]]
"""The next so many prompts of the run's order, none of which the step has yet."""


class SamplerChain:
    """All samplers of a run.

    Attributes:
        samplers: in the recipe's order.
        counts: of the present step: what each sampler left out; emptied by `metrics`.
    """

    def __init__(self, samplers: Sequence[Sampler]) -> None:
        self.samplers = list(samplers)
        self.counts: Counter[str] = Counter()

    @property
    def checkpoints(self) -> list[CheckpointRule]:
        """Which earlier policies are drawn from."""
        return [sampler.checkpoint for sampler in self.samplers if sampler.checkpoint]

    @property
    def needs_policy_logits(self) -> bool:
        """Whether the log-prob service must hold the step's policy."""
        return any(sampler.needs_policy_logits for sampler in self.samplers)

    @property
    def selects(self) -> bool:
        """Whether some rollouts may not be scored."""
        return any(sampler.selects for sampler in self.samplers)

    async def prepare(self, context: StepContext, asks: Asks) -> None:
        """`Sampler.prepare` of all, one after the other."""
        for sampler in self.samplers:
            await sampler.prepare(context, asks)

    def choose(self, context: StepContext, size: int, take: Take, taken: Mapping[str, Prompt]) -> list[Prompt]:
        """At most `size` prompts; the first sampler chooses for the second as many as that one wants to choose from, and so on."""
        sizes = [size]
        for sampler in reversed(self.samplers):
            sizes.append(sampler.candidates(sizes[-1]))
        sizes.reverse()
        prompts = take(sizes[0])
        for sampler, wanted in zip(self.samplers, sizes[1:], strict=True):
            prompts = sampler.choose(context, prompts, wanted, taken)
        if len({prompt.id for prompt in prompts}) != len(prompts) or any(prompt.id in taken for prompt in prompts):
            raise ValueError("the samplers chose a prompt twice for one step")
        return prompts

    def draw(self, context: StepContext, prompt: Prompt, completions: int) -> tuple[list[Draw], list[Given]]:
        """What is sampled for a prompt, and what is there already. ValueError when that is nothing at all."""
        draws = [Draw(completions)]
        for sampler in self.samplers:
            draws = sampler.draw(context, prompt, draws)
        draws = [draw for draw in draws if draw.n > 0]
        given = [one for sampler in self.samplers for one in sampler.recall(context, prompt)]
        if not draws and not given:
            raise ValueError(f"the samplers leave prompt {prompt.id} without completions")
        return draws, given

    async def select(self, context: StepContext, prompt: Prompt, rollouts: Sequence[Rollout], asks: Asks) -> list[int]:
        """Indices of the rollouts to be scored, ascending; each sampler selects among those the one before has selected."""
        chosen = list(range(len(rollouts)))
        for sampler in self.samplers:
            if sampler.selects and chosen:
                within = await sampler.select(context, prompt, [rollouts[i] for i in chosen], asks)
                chosen = [chosen[i] for i in sorted(within)]
        return chosen

    def keep(self, context: StepContext, groups: Sequence[Group]) -> list[Group]:
        """What is learned from, in the order of `groups`."""
        kept = list(groups)
        for sampler in self.samplers:
            after = sampler.keep(context, kept) if kept else []
            rest = [group for group in after if group is not None]
            self._count(sampler, "groups_dropped", len(kept) - len(rest))
            before = {group.id: len(group.rollouts) for group in kept}
            self._count(sampler, "rollouts_dropped", sum(before[group.id] - len(group.rollouts) for group in rest))
            kept = rest
        return kept

    def further(self, context: StepContext, kept: int, round_: int) -> int:
        """How many more prompts the step needs: the most that any sampler wants."""
        return max((sampler.further(context, kept, round_) for sampler in self.samplers), default=0)

    def observe(self, context: StepContext, groups: Sequence[Group]) -> None:
        """`Sampler.observe` of all."""
        for sampler in self.samplers:
            sampler.observe(context, groups)

    def metrics(self) -> dict[str, float]:
        """What was left out since the last call, and every sampler's own numbers, as "sampler/<name>/<what>"."""
        metrics = {f"sampler/{name}": float(count) for name, count in sorted(self.counts.items())}
        self.counts.clear()
        for sampler in self.samplers:
            metrics.update({f"sampler/{sampler.name}/{name}": value for name, value in sampler.metrics().items()})
        return metrics

    def state(self) -> dict[str, Any]:
        """Every sampler's state by name."""
        return {sampler.name: sampler.state() for sampler in self.samplers}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore `state()`; ValueError when it is of other samplers."""
        if set(state) != {sampler.name for sampler in self.samplers}:
            raise ValueError(f"the state is of the samplers {', '.join(sorted(state)) or '(none)'}")
        for sampler in self.samplers:
            sampler.load_state(state[sampler.name])

    def _count(self, sampler: Sampler, what: str, number: int) -> None:
        if number:
            self.counts[f"{sampler.name}/{what}"] += number
