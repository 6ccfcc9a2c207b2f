"""One training step's data: sample, evaluate and take reference log-probs, group by group as each is finished."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from rewardmesh.client import Absence
from rewardmesh.trainer.mesh import Evaluated, Mesh, Sampled
from rewardmesh.trainer.prompts import Prompt
from rewardmesh.trainer.recipe import Recipe
from rewardmesh.trainer.samples import FloatArray, Group, Scores


@dataclass
class Collected:
    """The groups of a step, in the order of its prompts, and where the time went.

    Attributes:
        attempts, details: per group and sample, for the ledger.
        seconds: generate (until the last completion), then what scores and reference log-probs still took: score, reference.
    """

    groups: list[Group] = field(default_factory=list)
    attempts: list[tuple[int, ...]] = field(default_factory=list)
    details: list[tuple[str | None, ...]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)


async def collect(mesh: Mesh, recipe: Recipe, prompts: Sequence[Prompt], step: int, *, reference: bool) -> Collected:
    """Everything the mesh has to say for one step; a group goes to the gateway as soon as its last completion is there."""
    began = time.monotonic()
    resolving: dict[str, asyncio.Task[_Resolved]] = {}

    def on_group(prompt: Prompt, items: list[Sampled]) -> None:
        resolving[prompt.id] = asyncio.create_task(_resolve(mesh, recipe, prompt, items, step, reference=reference))

    try:
        await mesh.generate(
            prompts,
            on_group,
            n=recipe.sampling.completions,
            temperature=recipe.sampling.temperature,
            seed=step_seed(recipe.seed, step),
            tag=f"step-{step:06d}",
        )
        generated = time.monotonic()
        await asyncio.gather(*resolving.values())
        finished = time.monotonic()
    finally:
        for task in resolving.values():
            task.cancel()
        await asyncio.gather(*resolving.values(), return_exceptions=True)
    collected = Collected()
    for prompt in prompts:
        result = resolving[prompt.id].result()
        collected.groups.append(
            Group(
                id=result.items[0].rollout.group_id,
                rollouts=tuple(item.rollout for item in result.items),
                scores=result.evaluated.scores,
                preferences=result.evaluated.preferences,
                reference_log_probs=tuple(result.references),
                references=prompt.references,
            )
        )
        collected.attempts.append(result.evaluated.attempts)
        collected.details.append(result.evaluated.details)
    scored = max(generated, *(task.result().scored_at for task in resolving.values()))
    collected.seconds = {"generate": generated - began, "score": scored - generated, "reference": max(finished - scored, 0.0)}
    return collected


def step_seed(seed: int, step: int) -> int:
    """Seed of a step's sampling: a function of the run's seed and the step alone."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0] >> np.uint64(1))


@dataclass(frozen=True)
class _Resolved:
    items: list[Sampled]
    evaluated: Evaluated
    references: list[FloatArray | None]
    scored_at: float


async def _resolve(mesh: Mesh, recipe: Recipe, prompt: Prompt, items: list[Sampled], step: int, *, reference: bool) -> _Resolved:
    """Score a group and take its reference log-probs; where the program asks for it, sample replacements and do both again."""
    for attempt in range(recipe.patience.resample_attempts + 1):
        (evaluated, scored_at), references = await asyncio.gather(_evaluate(mesh, prompt, items), _reference(mesh, items, reference))
        wanted = {i for i, scores in enumerate(evaluated.scores) if scores.advice.upper() == "RESAMPLE"}
        if not wanted or attempt == recipe.patience.resample_attempts:
            break
        replacements: list[Sampled] = []

        def take(_: Prompt, new: list[Sampled], into: list[Sampled] = replacements) -> None:
            into.extend(new)

        await mesh.generate(
            [prompt],
            take,
            n=len(items),
            temperature=recipe.sampling.temperature,
            seed=step_seed(recipe.seed, step) ^ (attempt + 1),
            tag=f"step-{step:06d}",
        )
        items = [replacements[i] if i in wanted else item for i, item in enumerate(items)]
    return _Resolved(items, evaluated, references, scored_at)


async def _evaluate(mesh: Mesh, prompt: Prompt, items: Sequence[Sampled]) -> tuple[Evaluated, float]:
    """Evaluate the completions there are; one that was never written has the generator's absence for a score.

    Returns the scores and the time at which they were there.
    """
    written = [item.rollout for item in items if item.absence is None]
    evaluated = await mesh.evaluate(prompt, written) if written else Evaluated((), None, (), ())
    place = iter(range(len(written)))
    places = [None if item.absence else next(place) for item in items]
    preferences = None
    if evaluated.preferences is not None:
        preferences = np.full((len(items), len(items)), np.nan)
        there = [i for i, at in enumerate(places) if at is not None]
        preferences[np.ix_(there, there)] = evaluated.preferences
    result = Evaluated(
        tuple(_unwritten(item.absence) if at is None else evaluated.scores[at] for item, at in zip(items, places, strict=True)),
        preferences,
        tuple(1 if at is None else evaluated.attempts[at] for at in places),
        tuple(item.absence.detail if item.absence else evaluated.details[at or 0] for item, at in zip(items, places, strict=True)),
    )
    return result, time.monotonic()


def _unwritten(absence: Absence | None) -> Scores:
    reason = absence.reason.value if absence else "INFRASTRUCTURE"
    return Scores(reward=None, absence=reason, advice="DROP", component_absences={"generation": reason})


async def _reference(mesh: Mesh, items: Sequence[Sampled], wanted: bool) -> list[FloatArray | None]:
    """Reference log-probs of each completion; None for one that was never written, or when they are not wanted."""
    written = [item.rollout for item in items if wanted and item.rollout.length]
    values = iter(await mesh.reference(written) if written else [])
    return [next(values) if wanted and item.rollout.length else None for item in items]
