"""Audit data without any file: the demo's generated problems with answers whose quality is known by construction."""

from __future__ import annotations

import random

from rewardmesh.audit import Answer, AuditGroup, AuditPair, JudgeData, LabelledAnswer, VerifierData
from rewardmesh.audit.judge import user
from rewardmesh.demo.answers import Style, pair_of_different_quality, pair_of_same_quality, write
from rewardmesh.demo.problems import generate

STYLES: tuple[Style, ...] = ("full", "skipped", "terse", "slip", "unrelated")
SAME = 4
"""One pair in so many has answers of the same quality."""
GROUPED = 3
"""One problem in so many has a group of answers, one a style, too."""


def judge_problems(n: int, seed: int) -> JudgeData:
    """Pairs of answers to held-out problems, most of different quality, on either side; and groups with an answer of every style."""
    rng = random.Random(f"audit-judge-{seed}")
    pairs, groups = [], []
    for number, problem in enumerate(generate(n, seed, "heldout")):
        first, second = pair_of_same_quality(problem, rng) if number % SAME == 0 else pair_of_different_quality(problem, rng)
        if first.text == second.text:
            # Of two equal texts no judge can tell anything.
            first, second = write(problem, "slip", rng), write(problem, "unrelated", rng)
        if rng.random() < 0.5:
            first, second = second, first
        label = 0.5 if first.quality == second.quality else float(first.quality > second.quality)
        pairs.append(AuditPair(problem.id, user(problem.question), Answer(first.text), Answer(second.text), label, (problem.answer,)))
        if number % GROUPED == 0:
            answers = tuple(Answer(write(problem, style, rng).text) for style in STYLES)
            groups.append(AuditGroup(problem.id, user(problem.question), answers, (problem.answer,)))
    return JudgeData(f"generated problems (seed {seed})", tuple(pairs), tuple(groups))


def verifier_problems(n: int, seed: int) -> VerifierData:
    """One answer of a random style to each of n held-out problems; right where its last number is the problem's."""
    rng = random.Random(f"audit-verifier-{seed}")
    answers = []
    for problem in generate(n, seed, "heldout"):
        text = write(problem, rng.choice(STYLES), rng).text
        right = text.rpartition("#### ")[2] == problem.final
        answers.append(LabelledAnswer(problem.id, user(problem.question), text, right, (problem.answer,)))
    return VerifierData(f"generated problems (seed {seed})", tuple(answers))
