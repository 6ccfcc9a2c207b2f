"""Generated problems: right, distinct, repeatable, and held-out ones never in training."""

import re
from collections import Counter

from rewardmesh.demo.problems import SLIP_SHARE, STYLE_SHARES, as_written, generate, split_of

LINE = re.compile(r"^(?:First|Then|So) (\d+) ([-+*]) (\d+) = (\d+)$")


def test_every_line_of_working_is_right_and_the_last_is_the_answer() -> None:
    for problem in generate(500, 3, "train"):
        *lines, last = problem.answer.split("\n")
        assert len(lines) == len(problem.steps)
        for line in lines:
            found = LINE.match(line)
            assert found, line
            left, operator, right, result = int(found[1]), found[2], int(found[3]), int(found[4])
            assert {"+": left + right, "-": left - right, "*": left * right}[operator] == result
            assert result >= 0
        assert last == f"#### {problem.final}" == f"#### {lines[-1].split()[-1]}"


def test_first_numbers_come_from_the_story_or_from_an_earlier_line() -> None:
    for problem in generate(200, 4, "train"):
        known = set(map(int, re.findall(r"\d+", problem.question)))
        for step in problem.steps:
            assert {step.left, step.right} <= known
            known.add(step.result)


def test_splits_are_disjoint_whatever_the_seed() -> None:
    heldout = {problem.question for problem in generate(500, 0, "heldout")}
    for seed in (0, 1, 1000):
        assert heldout.isdisjoint(problem.question for problem in generate(2000, seed, "train"))
    assert all(split_of(question) == "heldout" for question in heldout)


def test_problems_are_distinct_and_a_function_of_the_seed() -> None:
    problems = generate(300, 7, "train")
    assert len({problem.id for problem in problems}) == len({problem.question for problem in problems}) == 300
    assert problems == generate(300, 7, "train")
    assert problems != generate(300, 8, "train")


def test_what_people_write_is_of_the_declared_styles_and_slips() -> None:
    problems = generate(3000, 5, "train")
    written = as_written(problems, 5)
    assert written == as_written(problems, 5)
    styles: Counter[str] = Counter()
    for problem, text in zip(problems, written, strict=True):
        right = text.endswith(f"#### {problem.final}")
        lines = text.count(" = ")
        assert right or not lines, "working that is written down is right"
        styles["full" if lines == len(problem.steps) else "skip" if lines else "result"] += 1
        styles["slip"] += not right
    # A problem of one step has no line to skip: there the result alone is written.
    assert abs(styles["full"] / 3000 - STYLE_SHARES["full"]) < 0.04
    assert abs(styles["result"] / 3000 - STYLE_SHARES["result"]) < 0.04
    assert abs(styles["slip"] / styles["result"] - SLIP_SHARE) < 0.04
