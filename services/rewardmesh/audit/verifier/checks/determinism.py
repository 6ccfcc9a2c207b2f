"""Determinism: the same answers twice, in another order, give the same verdicts."""

from __future__ import annotations

import random

from rewardmesh.audit.figures import Spec
from rewardmesh.audit.findings import Example, Findings
from rewardmesh.audit.statistics import share
from rewardmesh.audit.verifier.asking import Checker
from rewardmesh.audit.verifier.check import Check, outcome
from rewardmesh.audit.verifier.data import LabelledAnswer, VerifierData

CHANGED = Spec("determinism.changed", "", "lower", 0.0, "Share of the answers whose verdict, score or absence is not the same twice.")
SPECS = (CHANGED,)


async def run(checker: Checker, data: VerifierData) -> Findings:
    """Every answer twice, groups in another order the second time."""
    samples = [answer.to_sample(str(number)) for number, answer in enumerate(data.answers)]
    first = await checker.verify(samples)
    order = _shuffled(data.answers, random.Random(checker.settings.seed))
    second = dict(zip(order, await checker.verify([samples[index] for index in order]), strict=True))
    changed = [
        (answer, before, after)
        for index, (answer, before) in enumerate(zip(data.answers, first, strict=True))
        if (outcome(before), before.value) != (outcome(after := second[index]), after.value)
    ]
    return Findings(
        len(samples),
        {CHANGED.name: share([True] * len(changed) + [False] * (len(samples) - len(changed)))},
        examples=tuple(
            Example(answer.id, f"first {outcome(before)}, then {outcome(after)}", {"answer": answer.completion})
            for answer, before, after in changed[:5]
        ),
    )


def _shuffled(answers: tuple[LabelledAnswer, ...], rng: random.Random) -> list[int]:
    """Indices with whole groups in another order: a group's own order may matter to a verifier of groups."""
    groups: dict[str, list[int]] = {}
    for index, answer in enumerate(answers):
        groups.setdefault(answer.group_id or f"\0{index}", []).append(index)
    shuffled = list(groups.values())
    rng.shuffle(shuffled)
    return [index for group in shuffled for index in group]


CHECK = Check("determinism", "Determinism", "The same answers are checked twice, in batches of another composition.", SPECS, run)
