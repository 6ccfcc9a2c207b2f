"""Labelled answers for the math verifier: real ones with people's labels, generated ones, and formulas in many forms.

Real ones are `gsm8k_model_answers.jsonl` (question, reference, answers[].model, .solution, .is_correct). Without that file answers to
generated problems stand in: they are right or wrong by construction.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks._items import REAL_FILE
from rewardmesh.client import sample
from rewardmesh.demo.problems import generate
from rewardmesh.v1 import common_pb2 as pb

QUESTIONS = 256


@dataclass(frozen=True)
class Labelled:
    """An answer, and whether it is right."""

    id: str
    """Question and author: what explanations of disagreements are keyed by."""
    group: str
    """The question."""
    completion: str
    reference: str
    right: bool

    def build(self, suffix: str = "") -> pb.Sample:
        """The message; `suffix` makes another id."""
        return sample(self.id + suffix, self.group, self.completion, references=[self.reference], group_id=self.group + suffix)


def read_answers(data: Path | None) -> tuple[list[Labelled], str]:
    """Answers with labels, and where they come from; `data` is the file of real ones, its folder, or None."""
    if data is None:
        return list(_generated()), f"{QUESTIONS} generated problems, 4 answers each, right or wrong by construction"
    file = data / REAL_FILE if data.is_dir() else data
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    answers = [
        Labelled(f"{place}/{answer['model']}", f"question {place}", answer["solution"], row["reference"], answer["is_correct"])
        for place, row in enumerate(rows)
        for answer in row["answers"]
    ]
    return answers, f"{len(rows)} GSM8K questions, {len(answers)} model answers labelled by people"


def formulas(problems: int, seed: int = 0) -> list[Labelled]:
    """Answers in LaTeX, four a problem, two of them right: a quarter plain numbers, a half numbers and structures of many forms, a quarter
    formulas that only math-verify can compare. Nearly all are different."""
    rng = random.Random(seed)
    found = []
    for place in range(problems):
        make = _FORMS[place % len(_FORMS)]
        reference, right, wrong = make(rng, rng.randint(2, 60), rng.randint(2, 9), rng.randint(3, 99))
        for number, text in enumerate((*right, *wrong)):
            completion = f"First we look at what is given, and then we work it out step by step.\nThe final answer is \\boxed{{{text}}}."
            found.append(Labelled(f"formula {place}/{number}", f"formula {place}", completion, reference, number < 2))
    return found


def _generated() -> Iterator[Labelled]:
    rng = random.Random(0)
    for place, problem in enumerate(generate(QUESTIONS, 0, "train")):
        final = int(problem.final)
        working = "\n".join(step.text for step in problem.steps)
        off = final + rng.choice([-2, -1, 1, 2, 10])
        texts = ((f"{working}\nA: {final}", True), (f"{working}\nSo the answer is {final:,}.00.", True), (f"{working}\n#### {off}", False))
        for number, (text, right) in enumerate((*texts, (f"I think so.\nA: {final}0", final == 0))):
            yield Labelled(f"{place}/{number}", f"question {place}", text, problem.answer, right)


Made = tuple[str, tuple[str, str], tuple[str, str]]
"""Reference, two right answers, two wrong ones."""
_FORMS: tuple[Callable[[random.Random, int, int, int], Made], ...] = (
    lambda rng, a, b, c: (f"{a * c}", (f"{a * c}", f"{a * c}.0"), (f"{a * c + 1}", f"-{a * c}")),
    lambda rng, a, b, c: (f"{1000 * a + c}", (f"{a},{c:03d}", f"{1000 * a + c}\\text{{ cm}}"), (f"{a}", f"{1000 * a + c + 1}")),
    lambda rng, a, b, c: (
        f"\\frac{{{a}}}{{{a + b}}}",
        (f"\\dfrac{{{a}}}{{{a + b}}}", f"\\frac{{{2 * a}}}{{{2 * (a + b)}}}"),
        (f"\\frac{{{a + b}}}{{{a}}}", f"\\frac{{{a}}}{{{a + b + 1}}}"),
    ),
    lambda rng, a, b, c: (
        f"\\{{{a}, {-b}, {a + c}\\}}",
        (f"\\{{{-b},{a + c},{a}\\}}", f"{a}, {-b}, {a + c}"),
        (f"\\{{{a}, {b}, {a + c}\\}}", f"({a}, {-b}, {a + c})"),
    ),
    lambda rng, a, b, c: (
        f"[{a},{a + c})",
        (f"\\left[{a}, {a + c}\\right)", f"{a} \\le x < {a + c}"),
        (f"({a},{a + c})", f"[{a},{a + c}]"),
    ),
    lambda rng, a, b, c: (
        f"({a}, \\frac{{1}}{{{b}}})",
        (f"\\left({a}, \\frac{{2}}{{{2 * b}}}\\right)", f"({a},1/{b})"),
        (f"(\\frac{{1}}{{{b}}}, {a})", f"({a}, \\frac{{1}}{{{b + 1}}})"),
    ),
    lambda rng, a, b, c: (
        f"{b}\\sqrt{{{c}}}",
        (f"\\sqrt{{{b * b * c}}}", f"\\sqrt{{{c}}} \\cdot {b}"),
        (f"{b}\\sqrt{{{c + 1}}}", f"{b + 1}\\sqrt{{{c}}}"),
    ),
    lambda rng, a, b, c: (
        f"x^2 + {a + c}x + {a * c}",
        (f"(x+{a})(x+{c})", f"{a * c} + x^2 + {a + c}x"),
        (f"x^2 + {a + c + 1}x + {a * c}", f"(x+{a})(x-{c})"),
    ),
)
