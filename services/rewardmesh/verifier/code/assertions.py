"""Runs a test script against a program in two sandboxes: the script in one, the program in the other, the server between them.

The program's side gets calls as data and answers with data; it never sees the script, has no channel to the script's side, and whether the
script reached its end is only heard from there. So a program cannot pass by patching comparisons, by leaving before the tests
(`sys.exit`, `os._exit`), or by reading what is expected.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from rewardmesh.verifier.code.programs import failed_by
from rewardmesh.verifier.code.results import PASSED, Category, TestResult, beyond_limits
from rewardmesh.verifier.code.suite import Suite
from rewardmesh.verifier.sandbox.box import Box, Ended
from rewardmesh.verifier.sandbox.inside import data
from rewardmesh.verifier.sandbox.limits import Ending, Limits, Run, SandboxError
from rewardmesh.verifier.sandbox.sandboxes import Sandboxes

MOST_CALLS = 100_000
REFEREE = Limits(cpu_s=3600, wall_s=3600)
"""The script is not the program's fault: it only gets what is left of the program's time."""
_REQUESTS = ("call", "get", "set", "special", "bool", "isinstance")


@dataclass(frozen=True, slots=True)
class Judged:
    """What a script came to: results of its assertions, or why it could not be used."""

    results: tuple[TestResult, ...] = ()
    ending: Ending = Ending.EXIT
    """Of the program's side."""
    invalid: str = ""
    """The script itself is at fault."""
    not_applicable: str = ""
    """It asks for what cannot be done across sandboxes."""


class _Failed(Exception):
    """The program's side cannot go on."""

    def __init__(self, result: TestResult, ending: Ending = Ending.EXIT) -> None:
        super().__init__(result.evidence)
        self.judged = Judged((result,), ending)


async def run_script(sandboxes: Sandboxes, suite: Suite, source: str, limits: Limits) -> Judged:
    """Run a suite's test script against Python source. Raises SandboxError.

    The limits are the program's, for the whole script.
    """
    async with sandboxes.box() as program, sandboxes.box() as referee:
        try:
            names = await _loaded(program, source, limits)
        except _Failed as failure:
            return failure.judged
        return await _relay(program, referee, suite, names, limits)


async def _loaded(program: Box, source: str, limits: Limits) -> Any:
    # The kernel counts the processor time of the whole script; that of one call is watched from outside.
    begin = {"op": "candidate", "limits": {**limits.inside(), "cpu_s": limits.wall_s}}
    header, blobs = await _asked(program, limits, begin, source.encode("utf-8", "surrogatepass"))
    if header.get("op") == "raised":
        raise _Failed(_raised(header))
    try:
        return data.loads(blobs[0])
    except (data.NotData, IndexError) as error:
        raise _Failed(TestResult(Category.SANDBOX, f"the program answered nonsense: {error}")) from error


async def _relay(program: Box, referee: Box, suite: Suite, names: Any, limits: Limits) -> Judged:
    """Carry requests of the script to the program and answers back, until the script has been judged."""
    deadline = time.monotonic() + limits.wall_s
    header: dict[str, Any] = {"op": "referee", "entry_point": suite.entry_point, "names": names, "limits": REFEREE.inside()}
    blob = suite.script.encode("utf-8", "surrogatepass")
    for _ in range(MOST_CALLS):
        try:
            told, blobs = await referee.ask(header, blob, limits=REFEREE, wall_s=max(0.0, deadline - time.monotonic()))
        except Ended as ended:
            if ended.ending is Ending.WALL:
                return Judged((_late(limits),), Ending.WALL)
            # Nothing of the program runs there: data that is too large for the script, or a script that is too large itself.
            return Judged(not_applicable=f"the test script's side was ended: {ended.detail}")
        if told.get("op") == "judged":
            return _read(told)
        if told.get("op") != "ask" or told.get("do") not in _REQUESTS or len(blobs) != 1:
            raise SandboxError(f"the referee sent {told.get('op')!r:.50}")
        try:
            header, answer = await _asked(program, limits, {"do": told["do"], "name": told.get("name", "")}, blobs[0], deadline=deadline)
        except _Failed as failure:
            return failure.judged
        if header.get("op") not in {"value", "raised"} or len(answer) > 1 or any(len(one) > data.MOST_BYTES for one in answer):
            return Judged((TestResult(Category.SANDBOX, "the program answered nonsense"),))
        blob = answer[0] if answer else b""
    return Judged((TestResult(Category.TIMEOUT, f"more than {MOST_CALLS} calls"),))


async def _asked(
    program: Box, limits: Limits, header: dict[str, Any], blob: bytes, deadline: float | None = None
) -> tuple[dict[str, Any], list[bytes]]:
    try:
        return await program.ask(header, blob, limits=limits, wall_s=None if deadline is None else max(0.0, deadline - time.monotonic()))
    except Ended as ended:
        if ended.ending is Ending.WALL:
            raise _Failed(_late(limits), ended.ending) from ended
        if ended.ending is Ending.LOST:
            raise _Failed(TestResult(Category.RUNTIME, "the program ended its process during the tests"), ended.ending) from ended
        result = beyond_limits(Run(ended.ending, detail=ended.detail))
        raise _Failed(result or TestResult(Category.SANDBOX, ended.detail), ended.ending) from ended


def _late(limits: Limits) -> TestResult:
    return TestResult(Category.TIMEOUT, f"the tests took longer than {limits.wall_s:g} s")


def _raised(header: dict[str, Any]) -> TestResult:
    return failed_by(Run(Ending.EXIT, report=header))


def _read(told: dict[str, Any]) -> Judged:
    """What the referee says at the end."""
    end, detail, line = told["end"], told["detail"], told.get("line", 0)
    if end == "invalid":
        return Judged(invalid=detail)
    if end == "not-applicable":
        return Judged(not_applicable=detail)
    if told["asserts"] == 0:
        return Judged(invalid="the test script has no assert statement")
    results = [
        PASSED if passed else TestResult(Category.RUNTIME if where else Category.WRONG_ANSWER, why or "assertion failed", where)
        for _, passed, why, where in told["steps"]
    ]
    if end == "raised":
        category = Category.MISSING if detail.startswith("NameError") and not line else Category.RUNTIME
        # What the script did not come to has not been passed.
        unreached = max(1, told["asserts"] - len(results))
        results += [TestResult(category, detail, line)] * unreached
    elif not results:
        results = [TestResult(Category.WRONG_ANSWER, "the test script reached its end without any assertion")]
    return Judged(tuple(results))
