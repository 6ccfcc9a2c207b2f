"""Answers of every quality to a problem: what reward model and judge learn to tell apart.

Quality is that of the working, not of the luck: all steps written down and right (3), a step left out (2), no working at all (1), a slip
in the arithmetic or a step that has nothing to do with the question (0).
"""

import random
from dataclasses import dataclass
from typing import Literal

from rewardmesh.demo.problems import Problem, Step, worked

Style = Literal["full", "skipped", "terse", "slip", "unrelated"]
_WORSE: tuple[Style, ...] = ("terse", "skipped", "slip", "unrelated")
QUALITY: dict[Style, int] = {"full": 3, "skipped": 2, "terse": 1, "slip": 0, "unrelated": 0}


@dataclass(frozen=True)
class Written:
    """An answer with the quality of its working."""

    text: str
    style: Style

    @property
    def quality(self) -> int:
        """0 to 3, see the module."""
        return QUALITY[self.style]


def write(problem: Problem, style: Style, rng: random.Random) -> Written:
    """One answer in a style; a problem of one step cannot skip any, and is then answered tersely."""
    *lines, last = worked(problem.steps).split("\n")
    place = rng.randrange(len(lines))
    if style == "full":
        return Written("\n".join([*lines, last]), "full")
    if style == "skipped" and len(lines) > 1:
        del lines[rng.randrange(len(lines) - 1)]
        return Written("\n".join([*lines, last]), "skipped")
    if style in ("terse", "skipped"):
        return Written(last, "terse")
    step = problem.steps[place]
    if style == "slip":
        wrong = _off(step.result, rng)
        text = step.text.rpartition(" ")[0] + f" {wrong}"
    else:
        other = Step(rng.randint(2, 9), "+", rng.randint(2, 9))
        wrong, text = other.result, other.text
    lines[place] = lines[place].replace(step.text, text)
    # Only the last line's result is repeated in the answer; an earlier mistake stays a mistake of the working.
    return Written("\n".join([*lines, f"#### {wrong}" if place == len(lines) - 1 else last]), style)


def pair_of_different_quality(problem: Problem, rng: random.Random) -> tuple[Written, Written]:
    """(better, worse) answers to a problem, mostly the full working against a shorter one, as a policy half way there writes them."""
    while True:
        first: Style = "full" if rng.random() < 0.8 else rng.choice(("skipped", "terse"))
        (second,) = rng.choices(_WORSE, (45, 25, 15, 15))
        better, worse = write(problem, first, rng), write(problem, second, rng)
        if better.quality > worse.quality and better.text != worse.text:
            return better, worse


def pair_of_same_quality(problem: Problem, rng: random.Random) -> tuple[Written, Written]:
    """Two answers between which nothing is to choose."""
    style: Style = rng.choice(("full", "full", "terse", "skipped"))
    return write(problem, style, rng), write(problem, style, rng)


def _off(value: int, rng: random.Random) -> int:
    return max(0, value + rng.choice((-3, -2, -1, 1, 2, 3))) if value else rng.randint(1, 3)
