"""Answers of known quality: the styles are what they say, better is better."""

from __future__ import annotations

import random
import re

import pytest

from rewardmesh.demo.answers import QUALITY, Style, pair_of_different_quality, pair_of_same_quality, write
from rewardmesh.demo.problems import generate, worked

PROBLEMS = generate(60, 5, "train")


def _right_lines(text: str) -> list[bool]:
    found = re.findall(r"(\d+) ([-+*]) (\d+) = (\d+)", text)
    results = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b}
    return [results[operator](int(a), int(b)) == int(c) for a, operator, b, c in found]


@pytest.mark.parametrize("style", list(QUALITY))
def test_every_style_is_what_it_says(style: Style) -> None:
    rng = random.Random(0)
    for problem in PROBLEMS:
        written = write(problem, style, rng)
        lines = _right_lines(written.text)
        assert written.text.splitlines()[-1].startswith("#### ")
        if written.style == "full":
            assert written.text == worked(problem.steps)
        elif written.style == "skipped":
            assert len(lines) == len(problem.steps) - 1
            assert written.text.endswith(f"#### {problem.final}")
        elif written.style == "terse":
            assert written.text == f"#### {problem.final}"
        elif written.style == "slip":
            assert lines.count(False) == 1
        else:
            assert all(lines)
            assert len(lines) == len(problem.steps)


def test_pairs_differ_in_quality_or_do_not() -> None:
    rng = random.Random(1)
    for problem in PROBLEMS:
        better, worse = pair_of_different_quality(problem, rng)
        assert better.quality > worse.quality
        assert better.text != worse.text
        first, second = pair_of_same_quality(problem, rng)
        assert first.quality == second.quality
