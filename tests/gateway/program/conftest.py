"""Short ways to make programs and to run them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from rewardmesh.gateway.program import Composition, Member, Program, ProgramError, evaluate, parse_program
from rewardmesh.serving.validation import absence
from rewardmesh.v1 import common_pb2 as pb

Make = Callable[..., Program]
Run = Callable[..., list[Composition]]
Refusal = Callable[..., str]

SIGNALS = """\
name: test
signals:
  correct: {verifier: math}
  helpful: {reward: helpful-rm}
  other: {reward: other-rm}
  prefer: {judge: concise, mode: compare, against: group}
  graded: {judge: rubric, mode: grade}
"""


def _program(reward: str, rules: str = "{}") -> str:
    """A program with the signals that `reward` names."""
    used = [line for line in SIGNALS.splitlines(keepends=True) if not line.startswith("  ") or line.strip().split(":")[0] in reward]
    return f"{''.join(used)}reward: {reward}\non_absence: {rules}\n"


@pytest.fixture
def make() -> Make:
    """make(reward, on_absence): a program over the signals correct, helpful, other, prefer, graded."""

    def make_program(reward: str, rules: str = "{}", **options: Any) -> Program:
        return parse_program(_program(reward, rules), "test.yaml", **options)

    return make_program


@pytest.fixture
def run() -> Run:
    """run(program, rows, tags): one composition a row; a row maps signals to numbers or absences."""

    def run_program(
        program: Program, rows: Sequence[Mapping[str, float | pb.Absence]], tags: Sequence[Mapping[str, str]] | None = None
    ) -> list[Composition]:
        return evaluate(program, [Member(tag, row) for tag, row in zip(tags or [{}] * len(rows), rows, strict=True)])

    return run_program


@pytest.fixture
def refusal(make: Make) -> Refusal:
    """refusal(reward, ...): the message with which a program is refused, without file and line."""

    def refuse(reward: str, rules: str = "{}") -> str:
        with pytest.raises(ProgramError) as caught:
            make(reward, rules)
        return str(caught.value).split(": ", 1)[1]

    return refuse


@pytest.fixture
def lost() -> pb.Absence:
    """An absence that a retry may lift."""
    return absence(pb.ABSENCE_REASON_INFRASTRUCTURE, "the server is gone", retryable=True, retry_after_s=2.0)


@pytest.fixture
def hopeless() -> pb.Absence:
    """An absence that no retry lifts."""
    return absence(pb.ABSENCE_REASON_UNPARSABLE, "no answer found")
