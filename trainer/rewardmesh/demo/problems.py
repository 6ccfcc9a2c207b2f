"""Generated arithmetic word problems with worked answers, GSM8K in form.

A problem is a short story of one to three steps about people, objects and money. Its worked answer has one line per step with the
arithmetic spelled out ("So 12 + 7 = 19") and ends with "#### 19".

The two splits are disjoint by construction: a problem belongs to the split that the hash of its question names, whatever the seed,
so that no held-out question can be trained on by any run.
"""

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

Operator = Literal["+", "-", "*"]
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

STYLE_SHARES = {"full": 0.4, "skip": 0.05, "result": 0.55}
"""How often people write all lines of working, leave one out, or write the result alone."""

SLIP_SHARE = 0.5
"""How often those who write the result alone, having done the sum in their heads, are a little off."""


@dataclass(frozen=True)
class Step:
    """One line of working."""

    left: int
    operator: Operator
    right: int

    @property
    def result(self) -> int:
        """The value of the line."""
        return {"+": self.left + self.right, "-": self.left - self.right, "*": self.left * self.right}[self.operator]

    @property
    def text(self) -> str:
        """The line as written: "12 + 7 = 19"."""
        return f"{self.left} {self.operator} {self.right} = {self.result}"


Story = tuple[str, tuple[Step, ...]]
"""A question and the steps that answer it."""


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


def worked(steps: Sequence[Step]) -> str:
    """The worked answer: one line per step, then the final number after "####"."""
    # A word before the first number: numbers then always follow a space, and are the same tokens wherever they stand.
    openings = ["So"] if len(steps) == 1 else ["First", *["Then"] * (len(steps) - 2), "So"]
    lines = [f"{opening} {step.text}" for opening, step in zip(openings, steps, strict=True)]
    return "\n".join([*lines, f"#### {steps[-1].result}"])


def as_written(problems: Sequence[Problem], seed: int) -> list[str]:
    """One answer per problem as someone wrote it down: all lines, all but one, or the result alone (shares: `STYLE_SHARES`).

    Answers with working are right; a bare result is off by a few with probability `SLIP_SHARE`.
    """
    rng = random.Random(f"written-{seed}")
    written = []
    for problem in problems:
        (style,) = rng.choices(list(STYLE_SHARES), list(STYLE_SHARES.values()))
        steps = list(problem.steps)
        if style == "skip":
            # The last line stays: its result is the answer.
            del steps[rng.randrange(max(len(steps) - 1, 1))]
        if style == "result" or not steps:
            slip = rng.choice((-3, -2, -1, 1, 2, 3)) if rng.random() < SLIP_SHARE else 0
            written.append(f"#### {abs(int(problem.final) + slip)}")
        else:
            written.append(worked(steps))
    return written


def _change(rng: random.Random) -> Story:
    """A store of objects that grows and shrinks, one to three times."""
    name, friend = rng.sample(NAMES, 2)
    unit = rng.choice(OBJECTS)
    total = rng.randint(5, 20)
    story = [f"{name} has {total} {unit}."]
    steps = _changes(rng, name, friend, total, rng.choice((1, 2, 2, 3, 3, 3)), story)
    return " ".join([*story, f"How many {unit} does {name} have now?"]), steps


def _containers(rng: random.Random) -> Story:
    """Full containers, then one or two changes."""
    name, friend = rng.sample(NAMES, 2)
    unit, container = rng.choice(OBJECTS), rng.choice(CONTAINERS)
    count, each = rng.randint(2, 5), rng.randint(2, 4)
    story = [f"{name} has {count} {container} with {each} {unit} in each."]
    first = Step(count, "*", each)
    steps = (first, *_changes(rng, name, friend, first.result, rng.randint(1, 2), story))
    return " ".join([*story, f"How many {unit} does {name} have now?"]), steps


def _compare(rng: random.Random) -> Story:
    """Two people, the second described by the first; asked for both together, perhaps after a change."""
    name, friend = rng.sample(NAMES, 2)
    unit = rng.choice(OBJECTS)
    operator: Operator = rng.choice(("+", "-", "*"))
    if operator == "*":
        first, by = rng.randint(3, 5), rng.randint(2, 3)
        relation = f"{by} times as many {unit} as {name}"
    elif operator == "+":
        first, by = rng.randint(3, 9), rng.randint(2, 9)
        relation = f"{by} more {unit} than {name}"
    else:
        first = rng.randint(6, 15)
        by = rng.randint(2, min(9, first - 2))
        relation = f"{by} fewer {unit} than {name}"
    story = [f"{name} has {first} {unit}.", f"{friend} has {relation}."]
    second = Step(first, operator, by)
    together = Step(first, "+", second.result)
    changes = _changes(rng, "They", None, together.result, rng.randint(0, 1), story)
    return " ".join([*story, f"How many {unit} do they have together?"]), (second, together, *changes)


def _shop(rng: random.Random) -> Story:
    """A purchase of two kinds of things."""
    name = rng.choice(NAMES)
    one, two = rng.sample(OBJECTS, 2)
    (n_one, n_two), (price_one, price_two) = (rng.randint(2, 5) for _ in "ab"), (rng.randint(2, 4) for _ in "ab")
    first, second = Step(n_one, "*", price_one), Step(n_two, "*", price_two)
    story = f"{name} buys {n_one} {one} for {price_one} dollars each and {n_two} {two} for {price_two} dollars each."
    return f"{story} How many dollars does {name} pay?", (first, second, Step(first.result, "+", second.result))


def _changes(rng: random.Random, name: str, friend: str | None, total: int, count: int, story: list[str]) -> tuple[Step, ...]:
    """Adds `count` gains and losses of what `name` has to the story; never below 2 or above 24 by a gain."""
    verb = {"buys": "buy", "finds": "find", "wins": "win", "loses": "lose", "sells": "sell", "drops": "drop"} if name == "They" else {}
    steps: list[Step] = []
    for _ in range(count):
        grows = total < 6 or (total < 16 and rng.random() < 0.5)
        amount = rng.randint(2, 9 if grows else min(9, total - 2))
        what = f"{amount} more" if grows else f"{amount} of them"
        if friend and rng.random() < 0.5:
            story.append(f"{friend} gives {name} {what}." if grows else f"{name} gives {friend} {what}.")
        else:
            doing = rng.choice(GAINS if grows else LOSSES)
            story.append(f"{name} {verb.get(doing, doing)} {what}.")
        steps.append(Step(total, "+" if grows else "-", amount))
        total = steps[-1].result
    return tuple(steps)


FAMILIES: tuple[Callable[[random.Random], Story], ...] = (_change, _containers, _compare, _shop)
"""The kinds of stories, each a function of a random generator to (question, steps)."""
