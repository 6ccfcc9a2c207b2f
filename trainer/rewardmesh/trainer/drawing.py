"""From what the samplers want of each prompt to complete groups of rollouts: one call for all prompts whose completions are drawn alike."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from rewardmesh.client import Absence, AbsenceReason
from rewardmesh.trainer.codec import Codec
from rewardmesh.trainer.mesh import Mesh, Sampled
from rewardmesh.trainer.prompts import Prompt
from rewardmesh.trainer.recipe import Recipe
from rewardmesh.trainer.samplers import Draw, Given
from rewardmesh.trainer.samples import FloatArray, Rollout

T = TypeVar("T")
LogProbs = Callable[[Sequence[Rollout]], list[FloatArray]]
"""Per-token log-probs of rollouts under the step's policy, at the sampling temperature."""


@dataclass(frozen=True)
class Plan:
    """A prompt, what is drawn for it, and what is there already."""

    prompt: Prompt
    draws: tuple[Draw, ...]
    given: tuple[Given, ...]

    @property
    def sampled(self) -> int:
        """Completions that are drawn; in a group they come before those given."""
        return sum(draw.n for draw in self.draws)


class Drawing:
    """Draws the completions of one step.

    Args:
        tag: prefix of group ids ("step-000012").
        seed: of the step's sampling.
        log_probs: for given completions that nobody sampled.
    """

    def __init__(self, mesh: Mesh, recipe: Recipe, codec: Codec, *, tag: str, seed: int, log_probs: LogProbs) -> None:
        self._mesh = mesh
        self._sampling = recipe.sampling
        self._codec = codec
        self._tag = tag
        self._seed = seed
        self._log_probs = log_probs

    async def draw(self, plans: Sequence[Plan], on_group: Callable[[Plan, list[Sampled]], None], attempt: int = 0) -> None:
        """Draw for every plan; `on_group` gets a plan's rollouts, sampled ones first, as soon as all of them are there.

        Args:
            attempt: another number gives other completions.

        Raises:
            MeshUnavailable: as `Mesh.generate`.
        """
        parts: dict[str, list[list[Sampled] | None]] = {plan.prompt.id: [None] * len(plan.draws) for plan in plans}
        given = await self._given(plans)

        def arrived(plan: Plan, place: int, items: list[Sampled]) -> None:
            first = sum(draw.n for draw in plan.draws[:place])
            named = [self._named(plan, plan.draws[place], item, first + i) for i, item in enumerate(items)]
            parts[plan.prompt.id][place] = named
            if all(part is not None for part in parts[plan.prompt.id]):
                sampled = [item for part in parts[plan.prompt.id] for item in part or ()]
                on_group(plan, sampled + given[plan.prompt.id])

        batches: dict[tuple[int, Draw], list[Plan]] = {}
        for plan in plans:
            for place, draw in enumerate(plan.draws):
                batches.setdefault((place, replace(draw, prefix=())), []).append(plan)
            if not plan.draws:
                on_group(plan, given[plan.prompt.id])
        await together(self._batch(draw, place, members, arrived, attempt) for (place, draw), members in batches.items())

    async def again(self, plan: Plan, attempt: int) -> list[Sampled]:
        """Other completions of one plan, in the order of its group."""
        found: list[Sampled] = []
        await self.draw([plan], lambda _, items: found.extend(items), attempt)
        return found

    async def _batch(
        self, draw: Draw, place: int, plans: Sequence[Plan], arrived: Callable[[Plan, int, list[Sampled]], None], attempt: int
    ) -> None:
        seed = draw_seed(self._seed, place, attempt)
        if draw.source == "mixture":
            await together(self._mixed(plan, place, seed, arrived) for plan in plans)
            return
        by_id = {plan.prompt.id: plan for plan in plans}
        prefixes = {plan.prompt.id: plan.draws[place].prefix for plan in plans}
        await self._mesh.generate(
            [plan.prompt for plan in plans],
            lambda prompt, items: arrived(by_id[prompt.id], place, items),
            n=draw.n,
            temperature=0.0 if draw.source == "greedy" else self._sampling.temperature,
            seed=seed,
            tag=self._tag,
            held={"reference": 0, "checkpoint": draw.checkpoint}.get(draw.source),
            token_ids={plan.prompt.id: self._prompt(plan, prefixes[plan.prompt.id]) for plan in plans if prefixes[plan.prompt.id]},
        )

    async def _mixed(self, plan: Plan, place: int, seed: int, arrived: Callable[[Plan, int, list[Sampled]], None]) -> None:
        draw = plan.draws[place]
        prompt_ids = self._prompt(plan, draw.prefix)
        room = min(self._sampling.max_tokens, self._codec.context - len(prompt_ids))

        async def one(index: int) -> Sampled:
            if room < 1:
                detail = f"{len(prompt_ids)} prompt tokens leave no room for an answer"
                return Sampled(self._rollout(plan, prompt_ids, [], np.zeros(0, np.float32), "aborted"), _too_long(detail))
            written, version = await self._mesh.mix(
                prompt_ids,
                f"{plan.prompt.id}\0{index}",
                reference_weight=draw.reference_weight,
                seed=seed,
                max_tokens=room,
                end_ids=self._codec.end_ids,
            )
            rollout = self._rollout(plan, prompt_ids, written.token_ids, written.log_probs, written.finish)
            return Sampled(replace(rollout, policy_version=version), None)

        arrived(plan, place, await together(one(index) for index in range(draw.n)))

    async def _given(self, plans: Sequence[Plan]) -> dict[str, list[Sampled]]:
        """The completions that are there already, those without log-probs with the policy's."""
        found: dict[str, list[Rollout]] = {}
        unknown: list[tuple[str, int]] = []
        for plan in plans:
            prompt_ids = self._prompt(plan, ()) if plan.given else []
            rollouts = found.setdefault(plan.prompt.id, [])
            for place, one in enumerate(plan.given):
                if one.sampling_log_probs is None:
                    unknown.append((plan.prompt.id, place))
                known = np.zeros(len(one.completion_ids), np.float32) if one.sampling_log_probs is None else one.sampling_log_probs
                rollout = self._rollout(plan, prompt_ids, one.completion_ids, known, one.finish_reason, index=plan.sampled + place)
                rollouts.append(replace(rollout, source=one.source, policy_version=one.policy_version))
        if unknown:
            values = await asyncio.to_thread(self._log_probs, [found[id_][place] for id_, place in unknown])
            for (id_, place), log_probs in zip(unknown, values, strict=True):
                found[id_][place] = replace(found[id_][place], sampling_log_probs=log_probs)
        return {id_: [Sampled(rollout, None) for rollout in rollouts] for id_, rollouts in found.items()}

    def _named(self, plan: Plan, draw: Draw, item: Sampled, index: int) -> Sampled:
        """The item with its place in the whole group, its source, and the whole answer's text."""
        rollout = item.rollout
        changed = replace(rollout, id=f"{rollout.group_id}/{index}", source=draw.source)
        if draw.prefix and item.absence is None:
            text = self._codec.decode([*draw.prefix, *rollout.completion_ids.tolist()])
            changed = replace(changed, text=text, prefix_tokens=len(draw.prefix))
        return Sampled(changed, item.absence)

    def _rollout(
        self, plan: Plan, prompt_ids: Sequence[int], completion: Sequence[int], log_probs: FloatArray, finish: str, index: int = 0
    ) -> Rollout:
        group_id = f"{self._tag}/{plan.prompt.id}"
        return Rollout(
            id=f"{group_id}/{index}",
            group_id=group_id,
            prompt_ids=np.asarray(prompt_ids, np.int32),
            completion_ids=np.asarray(completion, np.int32),
            sampling_log_probs=log_probs,
            text=self._codec.decode(completion),
            prompt_text=plan.prompt.text,
            finish_reason=finish,
            policy_version=0,
        )

    def _prompt(self, plan: Plan, prefix: Sequence[int]) -> list[int]:
        return [*self._codec.prompt(plan.prompt.messages), *prefix]


async def together(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """All results in order; when one fails, the others are cancelled, and have ended, before its exception is raised."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def draw_seed(seed: int, place: int, attempt: int) -> int:
    """Seed of a call: that of the step for a prompt's first draw, streams of their own for further draws and attempts."""
    if place:
        seed = int(np.random.SeedSequence([seed, place]).generate_state(1, np.uint64)[0] >> np.uint64(1))
    return seed ^ attempt


def _too_long(detail: str) -> Absence:
    return Absence(AbsenceReason.TOO_LONG, detail)
