"""Generated arithmetic word problems with worked answers, GSM8K in form.

A problem is a short story of one to three steps about people, objects and money. Its worked answer has one line per step with the
arithmetic spelled out ("Mia has 12 + 7 = 19 apples.") and ends with "#### 19".

The two splits are disjoint by construction: a problem belongs to the split that the hash of its question names, whatever the seed,
so that no held-out question can be trained on by any run.
"""

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

Split = Literal["train", "heldout"]

HELDOUT_SHARE = 0.125
"""Share of all possible questions that no training run ever sees."""

NAMES = (
    *("Ada", "Ben", "Cora", "Dan", "Ella", "Finn", "Gia", "Hugo", "Ida", "Jack", "Kira", "Leo"),
    *("Mia", "Noah", "Olga", "Paul", "Rosa", "Sam", "Tom", "Uma", "Vera", "Will", "Yara", "Zoe"),
)
OBJECTS = (
    "apples",
    "books",
    "cards",
    "coins",
    "cups",
    "eggs",
    "keys",
    "maps",
    "nuts",
    "pears",
    "pens",
    "plums",
    "shells",
    "stamps",
    "toys",
)
CONTAINERS = ("bags", "boxes", "jars", "trays")
GAINS = ("buys", "finds", "wins")
LOSSES = ("loses", "sells", "drops")


@dataclass(frozen=True)
class Step:
    """One line of working: `subject` left operator right = result `unit`."""

    subject: str
    left: int
    operator: Literal["+", "-", "*"]
    right: int
    unit: str

    @property
    def result(self) -> int:
        """The value of the line."""
        return {"+": self.left + self.right, "-": self.left - self.right, "*": self.left * self.right}[self.operator]

    def text(self, result: int | None = None) -> str:
        """The line as written in a worked answer; `result` replaces the true value (to write a mistake down)."""
        value = self.result if result is None else result
        return f"{self.subject} {self.left} {self.operator} {self.right} = {value} {self.unit}."


@dataclass(frozen=True)
class Problem:
    """A question, its worked answer and the final number as text."""

    id: str
    question: str
    answer: str
    final: str
    steps: tuple[Step, ...] = field(repr=False)


def generate(n: int, seed: int, split: Split) -> list[Problem]:
    """Draws `n` distinct problems of a split; the same arguments give the same problems."""
    rng = random.Random(f"{split}-{seed}")
    found: dict[str, Problem] = {}
    while len(found) < n:
        question, steps = rng.choice(FAMILIES)(rng)
        digest = hashlib.sha256(question.encode()).hexdigest()
        if split_of(question) == split and digest not in found:
            found[digest] = Problem(f"{split}-{digest[:16]}", question, worked(steps), str(steps[-1].result), steps)
    return list(found.values())


def split_of(question: str) -> Split:
    """The split that a question belongs to, from the hash of its text."""
    digest = hashlib.sha256(question.encode()).digest()
    return "heldout" if int.from_bytes(digest[:4], "big") < HELDOUT_SHARE * 2**32 else "train"


def worked(steps: tuple[Step, ...]) -> str:
    """The worked answer: one line per step, then the final number after "####"."""
    return "\n".join([*(step.text() for step in steps), f"#### {steps[-1].result}"])


def _change(rng: random.Random) -> tuple[str, tuple[Step, ...]]:
    """A store of objects that grows and shrinks, one to three times."""
    name, friend = rng.sample(NAMES, 2)
    unit = rng.choice(OBJECTS)
    total = rng.randint(5, 30)
    story, steps = [f"{name} has {total} {unit}."], []
    for _ in range(rng.randint(1, 3)):
        grows = total < 6 or (total < 40 and rng.random() < 0.5)
        amount = rng.randint(2, min(15, 50 - total)) if grows else rng.randint(2, min(15, total - 2))
        if grows:
            story.append(rng.choice([f"{name} {rng.choice(GAINS)} {amount} more.", f"{friend} gives {name} {amount} more."]))
        else:
            story.append(rng.choice([f"{name} {rng.choice(LOSSES)} {amount} of them.", f"{name} gives {friend} {amount} of them."]))
        steps.append(Step(f"{name} has", total, "+" if grows else "-", amount, unit))
        total = steps[-1].result
    return " ".join([*story, f"How many {unit} does {name} have now?"]), tuple(steps)


def _containers(rng: random.Random) -> tuple[str, tuple[Step, ...]]:
    """Full containers, then perhaps some objects more or fewer."""
    name, friend = rng.sample(NAMES, 2)
    unit, container = rng.choice(OBJECTS), rng.choice(CONTAINERS)
    count, each = rng.randint(2, 6), rng.randint(2, 6)
    story = [f"{name} has {count} {container} with {each} {unit} in each."]
    steps = [Step(f"{name} has", count, "*", each, unit)]
    if rng.random() < 0.75:
        total = steps[0].result
        if rng.random() < 0.5:
            amount = rng.randint(2, 12)
            story.append(f"{friend} gives {name} {amount} more.")
            steps.append(Step(f"{name} has", total, "+", amount, unit))
        else:
            amount = rng.randint(2, max(2, min(15, total - 2)))
            story.append(f"{name} gives {friend} {amount} of them.")
            steps.append(Step(f"{name} has", total, "-", amount, unit))
    return " ".join([*story, f"How many {unit} does {name} have now?"]), tuple(steps)


def _compare(rng: random.Random) -> tuple[str, tuple[Step, ...]]:
    """Two people, the second described by the first; asked for the second or for both together."""
    name, friend = rng.sample(NAMES, 2)
    unit = rng.choice(OBJECTS)
    kind = rng.choice(["more", "fewer", "times"])
    if kind == "times":
        first, by = rng.randint(3, 8), rng.randint(2, 4)
        relation, operator = f"{by} times as many {unit} as {name}", "*"
    elif kind == "more":
        first, by = rng.randint(3, 20), rng.randint(2, 12)
        relation, operator = f"{by} more {unit} than {name}", "+"
    else:
        first = rng.randint(6, 25)
        by = rng.randint(2, min(12, first - 2))
        relation, operator = f"{by} fewer {unit} than {name}", "-"
    steps = [Step(f"{friend} has", first, operator, by, unit)]  # type: ignore[arg-type]
    question = f"How many {unit} does {friend} have?"
    if rng.random() < 0.6:
        steps.append(Step("Together they have", first, "+", steps[0].result, unit))
        question = f"How many {unit} do they have together?"
    return f"{name} has {first} {unit}. {friend} has {relation}. {question}", tuple(steps)


def _shop(rng: random.Random) -> tuple[str, tuple[Step, ...]]:
    """A purchase of two kinds of things, perhaps paid with a note."""
    name = rng.choice(NAMES)
    one, two = rng.sample(OBJECTS, 2)
    n_one, n_two, price_one, price_two = (rng.randint(2, 5) for _ in range(4))
    steps = [
        Step(f"The {one} cost", n_one, "*", price_one, "dollars"),
        Step(f"The {two} cost", n_two, "*", price_two, "dollars"),
    ]
    steps.append(Step(f"{name} pays", steps[0].result, "+", steps[1].result, "dollars"))
    story = f"{name} buys {n_one} {one} for {price_one} dollars each and {n_two} {two} for {price_two} dollars each."
    return f"{story} How many dollars does {name} pay?", tuple(steps)


FAMILIES: tuple[Callable[[random.Random], tuple[str, tuple[Step, ...]]], ...] = (_change, _containers, _compare, _shop)
"""The kinds of stories, each a function of a random generator to (question, steps)."""
