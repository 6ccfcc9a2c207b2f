"""Held-out evaluation: what the policy answers before and after training, sampled and greedy, judged by the verifier.

Rewards are compared at the end, on one scale: for every problem the gateway evaluates the answer before and the answer after as one
group, so that a pairwise judge compares just these two.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rewardmesh.trainer.mesh import Mesh, Sampled
from rewardmesh.trainer.prompts import Prompt, read_prompts
from rewardmesh.trainer.recipe import Recipe
from rewardmesh.trainer.report.evaluation import EvaluationRow
from rewardmesh.trainer.samples import Rollout, Scores
from rewardmesh.trainer.step import step_seed

_SEED_SALT = 2**31
_REFERENCED_TOGETHER = 32
"""Answers of one call for reference log-probs."""


@dataclass(frozen=True)
class Answers:
    """One sampled (or greedy) answer a problem.

    Attributes:
        correct: verifier's score (at least 0.5), None where it is absent.
        evidence: the verifier's words.
    """

    prompts: tuple[Prompt, ...]
    items: tuple[Sampled, ...]
    correct: tuple[bool | None, ...]
    evidence: tuple[str, ...]

    @property
    def accuracy(self) -> float:
        """Share of the judged problems that are right; NaN when none was judged."""
        judged = [right for right in self.correct if right is not None]
        return float(np.mean(judged)) if judged else float("nan")

    @property
    def length(self) -> float:
        """Mean completion tokens."""
        return float(np.mean([item.rollout.length for item in self.items]))

    def rows(self, decoding: str, scores: Sequence[Scores] = ()) -> list[EvaluationRow]:
        """Rows for the report; `scores` adds the program's reward and components."""
        rows = []
        for i, (prompt, item, right, evidence) in enumerate(zip(self.prompts, self.items, self.correct, self.evidence, strict=True)):
            rows.append(
                EvaluationRow(
                    problem_id=prompt.id,
                    decoding=decoding,
                    prompt=prompt.text,
                    reference=prompt.references[0] if prompt.references else None,
                    completion=item.rollout.text,
                    correct=right,
                    absence=None if right is not None else (item.absence.reason.value if item.absence else "NO_VERDICT"),
                    evidence=evidence,
                    reward=scores[i].reward if scores else None,
                    components=dict(scores[i].components) if scores else {},
                    length=item.rollout.length,
                    finish_reason=item.rollout.finish_reason,
                )
            )
        return rows


async def answer_heldout(mesh: Mesh, recipe: Recipe, *, greedy: bool, tag: str) -> Answers:
    """Let the active policy answer the held-out problems once and verify the answers."""
    if recipe.evaluation is None:
        raise ValueError("evaluation: is not set in the recipe")
    prompts = read_prompts(recipe.evaluation.prompts)[: recipe.evaluation.n]
    answered: dict[str, Sampled] = {}

    def on_group(prompt: Prompt, items: list[Sampled]) -> None:
        answered[prompt.id] = items[0]

    await mesh.generate(
        prompts,
        on_group,
        n=1,
        temperature=0.0 if greedy else recipe.sampling.temperature,
        seed=step_seed(recipe.seed + _SEED_SALT, 0),
        tag=tag,
    )
    items = [answered[prompt.id] for prompt in prompts]
    there = [(prompt, item.rollout) for prompt, item in zip(prompts, items, strict=True) if item.absence is None]
    verdicts = iter(await mesh.verify(recipe.evaluation.verifier, there) if there else [])
    results = [(None, item.absence.detail) if item.absence else next(verdicts) for item in items]
    correct = tuple(None if score is None else score >= 0.5 for score, _ in results)
    return Answers(tuple(prompts), tuple(items), correct, tuple(evidence for _, evidence in results))


async def heldout_kl(mesh: Mesh, answers: Answers) -> float | None:
    """KL (nats an answer) of the policy that sampled `answers` to the reference, estimated on them; None without a reference."""
    written = [item.rollout for item in answers.items if item.absence is None and item.rollout.length]
    parts = [written[start : start + _REFERENCED_TOGETHER] for start in range(0, len(written), _REFERENCED_TOGETHER)]
    references = [values for part in await asyncio.gather(*(mesh.reference(part) for part in parts)) for values in part]
    ratios = [
        float(np.sum(rollout.sampling_log_probs, dtype=np.float64) - np.sum(reference, dtype=np.float64))
        for rollout, reference in zip(written, references, strict=True)
        if reference is not None
    ]
    return float(np.mean(ratios)) if ratios else None


async def compare_rewards(mesh: Mesh, before: Answers, after: Answers) -> tuple[list[Scores], list[Scores]]:
    """The program's scores of the answers before and after, each pair of one problem evaluated as one group."""

    async def one(prompt: Prompt, old: Sampled, new: Sampled) -> tuple[Scores, Scores]:
        if old.absence or new.absence:
            reason = (old.absence or new.absence).reason.value  # type: ignore[union-attr]
            missing = Scores(reward=None, absence=reason)
            return missing, missing
        group = f"heldout/{prompt.id}"
        evaluated = await mesh.evaluate(prompt, [_renamed(old.rollout, group, "before"), _renamed(new.rollout, group, "after")])
        return evaluated.scores[0], evaluated.scores[1]

    gate = asyncio.Semaphore(32)

    async def gated(prompt: Prompt, old: Sampled, new: Sampled) -> tuple[Scores, Scores]:
        async with gate:
            return await one(prompt, old, new)

    pairs = await asyncio.gather(*(gated(p, a, b) for p, a, b in zip(before.prompts, before.items, after.items, strict=True)))
    return [old for old, _ in pairs], [new for _, new in pairs]


def mean_scores(scores: Sequence[Scores]) -> tuple[float, dict[str, float]]:
    """Mean composed reward and mean of each component over what is present; NaN where nothing is."""
    rewards = [score.reward for score in scores if score.reward is not None]
    components: dict[str, list[float]] = {}
    for score in scores:
        for name, value in score.components.items():
            if value is not None:
                components.setdefault(name, []).append(value)
    return (float(np.mean(rewards)) if rewards else float("nan")), {name: float(np.mean(v)) for name, v in sorted(components.items())}


def _renamed(rollout: Rollout, group: str, which: str) -> Rollout:
    return Rollout(**{**rollout.__dict__, "id": f"{group}/{which}", "group_id": group})
