"""One training step's data: choose prompts, draw, score and take reference log-probs group by group as each is finished; keep what teaches.

Where the recipe has a guide, its log-probs come in the same call, and its log-ratios to the reference (nats) are the token rewards, in
place of those that the reward program may give.

Everything that is random here is a function of the run's seed, the step and the state of the samplers, so that a step that is walked again
after a resume gives the same samples.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rewardmesh.client import Absence
from rewardmesh.trainer.codec import Codec
from rewardmesh.trainer.credit.dense import with_implicit_rewards
from rewardmesh.trainer.drawing import Drawing, LogProbs, Plan
from rewardmesh.trainer.mesh import Evaluated, Mesh, Sampled
from rewardmesh.trainer.prompts import Prompt, PromptSet
from rewardmesh.trainer.recipe import Recipe
from rewardmesh.trainer.samplers import SamplerChain, StepContext
from rewardmesh.trainer.samples import FloatArray, Group, Rollout, Scores

NOT_SELECTED = "NOT_SELECTED"
"""Absence of a rollout that a sampler did not send to the reward program."""


@dataclass
class Collected:
    """The groups of a step, in the order of its prompts, and where the time went.

    Attributes:
        groups: everything sampled, for the ledger.
        learned: what the samplers keep of it, for the algorithm.
        attempts, details: per group and sample, for the ledger.
        seconds: generate (until the last completion), then what scores and reference log-probs still took: score, reference.
        metrics: of the samplers.
    """

    groups: list[Group] = field(default_factory=list)
    learned: list[Group] = field(default_factory=list)
    attempts: list[tuple[int, ...]] = field(default_factory=list)
    details: list[tuple[str | None, ...]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=lambda: {"generate": 0.0, "score": 0.0, "reference": 0.0})
    metrics: dict[str, float] = field(default_factory=dict)


class Collector:
    """Walks the prompts of a run.

    Args:
        samplers: the recipe's.
        reference: whether the algorithm needs reference log-probs.
        log_probs: of completions that nobody sampled, under the policy in training.
    """

    def __init__(
        self, mesh: Mesh, recipe: Recipe, samplers: SamplerChain, prompts: PromptSet, codec: Codec, *, reference: bool, log_probs: LogProbs
    ) -> None:
        self._mesh = mesh
        self._recipe = recipe
        self._samplers = samplers
        self._prompts = prompts
        self._codec = codec
        self._reference = reference
        self._log_probs = log_probs
        self._position = 0

    async def collect(self, step: int) -> Collected:
        """Everything the mesh has to say for one step. Raises MeshUnavailable."""
        context = StepContext(step, self._recipe.seed, self._recipe.sampling.prompts_per_step, self._prompts.by_id, self._codec)
        round_ = Round(self._mesh, self._recipe, self._samplers, context, self._codec, reference=self._reference, log_probs=self._log_probs)
        await self._samplers.prepare(context, round_)
        collected = Collected()
        taken: dict[str, Prompt] = {}
        wanted, rounds = context.size, 0
        while wanted > 0:
            prompts = self._samplers.choose(context, wanted, lambda count: self._take(count, taken), taken)
            if not prompts:
                break
            taken.update((prompt.id, prompt) for prompt in prompts)
            groups = await round_.collect(prompts, collected)
            collected.learned += self._samplers.keep(context, groups)
            rounds += 1
            wanted = self._samplers.further(context, len(collected.learned), rounds)
        if not collected.groups:
            raise ValueError(f"step {step}: the samplers chose no prompt")
        self._samplers.observe(context, collected.groups)
        collected.metrics = {**_sources(collected), "rounds": float(rounds), **self._samplers.metrics()}
        return collected

    def state(self) -> dict[str, Any]:
        """The place in the prompts, and the samplers' states."""
        return {"position": self._position, "samplers": self._samplers.state()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore `state()`."""
        self._position = int(state["position"])
        self._samplers.load_state(state["samplers"])

    def _take(self, count: int, taken: Mapping[str, Prompt]) -> list[Prompt]:
        prompts, self._position = self._prompts.take(self._position, count, without=taken)
        return prompts


def step_seed(seed: int, step: int) -> int:
    """Seed of a step's sampling: a function of the run's seed and the step alone."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0] >> np.uint64(1))


@dataclass(frozen=True)
class _Resolved:
    items: list[Sampled]
    evaluated: Evaluated
    references: list[FloatArray | None]
    guides: list[FloatArray | None]
    scored_at: float


class Round:
    """Draws for prompts and resolves their groups; also what samplers may ask (`Asks`)."""

    def __init__(
        self,
        mesh: Mesh,
        recipe: Recipe,
        samplers: SamplerChain,
        context: StepContext,
        codec: Codec,
        *,
        reference: bool,
        log_probs: LogProbs,
    ) -> None:
        self._mesh = mesh
        self._recipe = recipe
        self._samplers = samplers
        self._context = context
        self._needs_reference = reference
        seed = step_seed(recipe.seed, context.number)
        self._drawing = Drawing(mesh, recipe, codec, tag=f"step-{context.number:06d}", seed=seed, log_probs=log_probs)

    async def collect(self, prompts: Sequence[Prompt], into: Collected) -> list[Group]:
        """The groups of the prompts, in their order; a group goes to the gateway as soon as its last completion is there."""
        began = time.monotonic()
        resolving: dict[str, asyncio.Task[_Resolved]] = {}

        def on_group(plan: Plan, items: list[Sampled]) -> None:
            resolving[plan.prompt.id] = asyncio.create_task(self._resolve(plan, items))

        plans = [self._plan(prompt) for prompt in prompts]
        try:
            await self._drawing.draw(plans, on_group)
            generated = time.monotonic()
            await asyncio.gather(*resolving.values())
            finished = time.monotonic()
        finally:
            for task in resolving.values():
                task.cancel()
            await asyncio.gather(*resolving.values(), return_exceptions=True)
        groups = []
        for prompt in prompts:
            result = resolving[prompt.id].result()
            group = Group(
                id=result.items[0].rollout.group_id,
                rollouts=tuple(item.rollout for item in result.items),
                scores=result.evaluated.scores,
                preferences=result.evaluated.preferences,
                reference_log_probs=tuple(result.references),
                references=prompt.references,
                tags=prompt.tags,
                prompt_id=prompt.id,
            )
            # In nats: what a nat is worth is a coefficient of the algorithm.
            groups.append(with_implicit_rewards(group, result.guides, 1.0) if self._recipe.guide_policy else group)
            into.attempts.append(result.evaluated.attempts)
            into.details.append(result.evaluated.details)
        scored = max(generated, *(task.result().scored_at for task in resolving.values()))
        into.seconds["generate"] += generated - began
        into.seconds["score"] += scored - generated
        into.seconds["reference"] += max(finished - scored, 0.0)
        into.groups += groups
        return groups

    async def reference(self, rollouts: Sequence[Rollout]) -> list[FloatArray | None]:
        """As `Mesh.reference`; None for a completion without tokens."""
        return (await self._frozen(rollouts, [self._recipe.reference_policy]))[0]

    async def scores(self, prompt: Prompt, rollouts: Sequence[Rollout], program: str) -> Sequence[Scores]:
        """As `Mesh.evaluate`, of another program."""
        return (await self._mesh.evaluate(prompt, rollouts, program)).scores

    async def probe(self, prompts: Sequence[Prompt], n: int) -> Mapping[str, Sequence[Scores]]:
        """Scores of completions that are not trained on, by prompt id."""
        scoring: dict[str, asyncio.Task[tuple[Evaluated, float]]] = {}

        def on_group(prompt: Prompt, items: list[Sampled]) -> None:
            scoring[prompt.id] = asyncio.create_task(self._evaluate(prompt, items, range(len(items))))

        try:
            await self._mesh.generate(
                prompts,
                on_group,
                n=n,
                temperature=self._recipe.sampling.temperature,
                seed=step_seed(self._recipe.seed, 0),
                tag=f"probe-{self._context.number:06d}",
            )
            found = dict(zip(scoring, await asyncio.gather(*scoring.values()), strict=True))
        finally:
            for task in scoring.values():
                task.cancel()
            await asyncio.gather(*scoring.values(), return_exceptions=True)
        return {prompt.id: found[prompt.id][0].scores for prompt in prompts}

    def _plan(self, prompt: Prompt) -> Plan:
        draws, given = self._samplers.draw(self._context, prompt, self._recipe.sampling.completions)
        return Plan(prompt, tuple(draws), tuple(given))

    async def _resolve(self, plan: Plan, items: list[Sampled]) -> _Resolved:
        """Score a group and take its reference log-probs; where the program asks for it, sample replacements and do both again."""
        last = self._recipe.patience.resample_attempts
        for attempt in range(last + 1):
            chosen = await self._selected(plan.prompt, items)
            (evaluated, scored_at), (references, guides) = await asyncio.gather(
                self._evaluate(plan.prompt, items, chosen),
                self._references(items),
            )
            wanted = {i for i, scores in enumerate(evaluated.scores) if scores.advice.upper() == "RESAMPLE" and i < plan.sampled}
            if not wanted or attempt == last:
                break
            replacements = await self._drawing.again(plan, attempt + 1)
            items = [replacements[i] if i in wanted else item for i, item in enumerate(items)]
        return _Resolved(items, evaluated, references, guides, scored_at)

    async def _selected(self, prompt: Prompt, items: Sequence[Sampled]) -> Sequence[int]:
        """Indices of the items to be scored: those that were written, as far as the samplers select them."""
        written = [i for i, item in enumerate(items) if item.absence is None]
        if not self._samplers.selects or not written:
            return written
        within = await self._samplers.select(self._context, prompt, [items[i].rollout for i in written], self)
        return [written[i] for i in within]

    async def _evaluate(self, prompt: Prompt, items: Sequence[Sampled], chosen: Sequence[int]) -> tuple[Evaluated, float]:
        """Evaluate the items at `chosen`; the others have the generator's absence for a score, or were not selected.

        Returns the scores and the time at which they were there.
        """
        there = [i for i in chosen if items[i].absence is None]
        evaluated = await self._mesh.evaluate(prompt, [items[i].rollout for i in there]) if there else Evaluated((), None, (), ())
        place = {i: at for at, i in enumerate(there)}
        preferences = None
        if evaluated.preferences is not None:
            preferences = np.full((len(items), len(items)), np.nan)
            preferences[np.ix_(there, there)] = evaluated.preferences
        result = Evaluated(
            tuple(evaluated.scores[place[i]] if i in place else _unscored(item.absence) for i, item in enumerate(items)),
            preferences,
            tuple(evaluated.attempts[place[i]] if i in place else 1 for i in range(len(items))),
            tuple(evaluated.details[place[i]] if i in place else _detail(item.absence) for i, item in enumerate(items)),
        )
        return result, time.monotonic()

    async def _references(self, items: Sequence[Sampled]) -> tuple[list[FloatArray | None], list[FloatArray | None]]:
        """Log-probs of each completion under reference and guide; None for one that was never written, or where they are not wanted."""
        rollouts, guide = [item.rollout for item in items], self._recipe.guide_policy
        if guide:
            references, guides = await self._frozen(rollouts, [self._recipe.reference_policy, guide])
            return references, guides
        nothing: list[FloatArray | None] = [None] * len(items)
        return await self.reference(rollouts) if self._needs_reference else nothing, nothing

    async def _frozen(self, rollouts: Sequence[Rollout], policies: Sequence[str]) -> list[list[FloatArray | None]]:
        """Log-probs under each of the policies, in one call; None for a completion without tokens."""
        written = [rollout for rollout in rollouts if rollout.length]
        found = iter(await self._mesh.log_probs(written, policies) if written else [])
        rows = [next(found) if rollout.length else (None,) * len(policies) for rollout in rollouts]
        return [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in policies]


def _unscored(absence: Absence | None) -> Scores:
    if absence is None:
        return Scores(reward=None, absence=NOT_SELECTED, advice="DROP", component_absences={"selection": NOT_SELECTED})
    reason = absence.reason.value
    return Scores(reward=None, absence=reason, advice="DROP", component_absences={"generation": reason})


def _detail(absence: Absence | None) -> str:
    return absence.detail if absence else "a sampler did not send it to the reward program"


def _sources(collected: Collected) -> dict[str, float]:
    """Rollouts by who wrote them."""
    found = Counter(rollout.source for group in collected.groups for rollout in group.rollouts)
    return {f"source/{name}": float(count) for name, count in sorted(found.items())}
