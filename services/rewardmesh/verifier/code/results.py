"""What comes of one test, and the bounded set of ways to fail."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from rewardmesh.verifier.sandbox.limits import Ending, Run


class Category(StrEnum):
    """Why a test failed."""

    SYNTAX = "syntax"
    COMPILE = "compile"
    MISSING = "missing"
    """The program does not define what is tested."""
    RUNTIME = "runtime"
    WRONG_ANSWER = "wrong-answer"
    TIMEOUT = "timeout"
    MEMORY = "memory"
    PROCESSES = "processes"
    OUTPUT = "output-limit"
    FILE_SIZE = "file-size"
    SANDBOX = "sandbox"
    """It ended the sandbox it ran in."""


_OF_ENDING = {
    Ending.CPU: Category.TIMEOUT,
    Ending.WALL: Category.TIMEOUT,
    Ending.MEMORY: Category.MEMORY,
    Ending.PROCESSES: Category.PROCESSES,
    Ending.OUTPUT: Category.OUTPUT,
    Ending.FILE_SIZE: Category.FILE_SIZE,
    Ending.LOST: Category.SANDBOX,
}


@dataclass(frozen=True, slots=True)
class TestResult:
    """One test. `category` is None when it passed; `line` is that of the program's text, from 1, 0 when none is to blame."""

    category: Category | None = None
    evidence: str = ""
    line: int = 0

    @property
    def cacheable(self) -> bool:
        """Whether the next run would give the same: time and memory depend on the machine's load."""
        return self.category is None or self.category not in _OF_ENDING.values()


PASSED = TestResult()


def beyond_limits(run: Run) -> TestResult | None:
    """The result of a run that met a limit; None for one that ended by itself."""
    if run.ending is Ending.EXIT:
        return None
    return TestResult(_OF_ENDING[run.ending], run.detail)


def shown(value: object, most: int = 120) -> str:
    """A value for people, of bounded length."""
    try:
        text = repr(value)
    except ValueError:
        # An integer with more digits than Python writes.
        text = f"a {type(value).__name__} that is too long to show"
    return text if len(text) <= most else text[: most - 1] + "…"
