"""A program under test, of any language: how it gets into a box, and how one test of it is run there."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from rewardmesh.verifier.code.javascript import CALL, call_file
from rewardmesh.verifier.code.results import Category, TestResult, beyond_limits
from rewardmesh.verifier.code.suite import CallTest, StdinTest
from rewardmesh.verifier.sandbox import programs
from rewardmesh.verifier.sandbox.box import Box, Ended
from rewardmesh.verifier.sandbox.languages import Language
from rewardmesh.verifier.sandbox.limits import MIB, Ending, Limits, Run

COMPILER = Limits(cpu_s=20, wall_s=40, memory_bytes=1024 * MIB, processes=64, file_bytes=64 * MIB, open_files=256)
LARGEST_PROGRAM = 32 * MIB
_LINE = {
    "javascript": re.compile(r"\bmain\.js:(\d{1,9})"),
    "cpp": re.compile(r"^main\.cpp:(\d{1,9}):\d+: (?:fatal )?error", re.MULTILINE),
    "rust": re.compile(r"\bmain\.rs:(\d{1,9}):"),
    "shell": re.compile(r"\bmain\.sh: (?:line )?(\d{1,9}):"),
    "python": re.compile(r'"solution\.py", line (\d{1,9})'),
}
_SYNTAX = {"javascript": re.compile(r"^SyntaxError", re.MULTILINE), "shell": re.compile(r"syntax error", re.IGNORECASE)}
_LONGEST = 300
_FINE = Run(Ending.EXIT)


@dataclass(frozen=True)
class Program:
    """Source in a language, and what a compiler has made of it."""

    language: Language
    source: str
    compiled: bytes | None = None

    async def load(self, box: Box, limits: Limits) -> Run:
        """Put the program into a box; anything but an EXIT when it does not fit."""
        if self.language.name == "python":
            return _FINE
        if self.compiled is not None:
            return await _put(box, "program", self.compiled, limits, executable=True)
        return await _put(box, self.language.source, self.source.encode("utf-8", "replace"), limits)

    async def answer(self, box: Box, test: StdinTest | CallTest, limits: Limits) -> Run:
        """Run one test in a box that the program has been loaded into. Raises NotData for arguments that are none."""
        if isinstance(test, CallTest):
            if self.language.name == "javascript":
                return await self._javascript_call(box, test, limits)
            return await programs.call(box, self.source, test.function, (test.args, test.kwargs), limits)
        stdin = test.stdin.encode("utf-8", "surrogatepass")
        if self.language.name == "python":
            return await programs.script(box, self.source, stdin, limits)
        return await programs.command(box, self.language.run, self.language.environment, stdin, self._bounded(limits))

    def failed(self, run: Run, default: Category = Category.RUNTIME) -> TestResult:
        """What a run that ended badly by itself comes to."""
        if "error" in run.report:
            return failed_by(run, default)
        words = run.stderr.decode("utf-8", "replace")
        found = _LINE[self.language.name].findall(words)
        syntax = _SYNTAX.get(self.language.name)
        category = Category.SYNTAX if syntax and syntax.search(words) else default
        how = f"ended by signal {-run.status}" if run.status < 0 else f"exit status {run.status}"
        # Python names the innermost line last, all others first.
        line = int(found[-1 if self.language.name == "python" else 0]) if found else 0
        return TestResult(category, f"{how}: {_telling(words)}" if words.strip() else how, line)

    async def _javascript_call(self, box: Box, test: CallTest, limits: Limits) -> Run:
        for path, content in (("call.json", call_file(test)), ("main.js", (self.source + CALL).encode("utf-8", "replace"))):
            run = await _put(box, path, content, limits)
            if run.ending is not Ending.EXIT:
                return run
        return await programs.command(box, self.language.run, self.language.environment, b"", self._bounded(limits))

    def _bounded(self, limits: Limits) -> Limits:
        # A compiled program reserves no more addresses than it uses, whatever its compiler did.
        return replace(limits, reserves_addresses=self.language.reserves_addresses and not self.language.compile)


async def compiled(box: Box, language: Language, source: str, limits: Limits) -> bytes | TestResult:
    """The program that a compiler makes of a source, in a box of its own, or why it makes none."""
    run = await _put(box, language.source, source.encode("utf-8", "replace"), limits)
    if run.ending is Ending.EXIT:
        run = await programs.command(
            box, language.compile, language.environment, b"", replace(limits, reserves_addresses=language.reserves_addresses)
        )
    met = beyond_limits(run)
    if met is not None:
        return TestResult(met.category, f"the compiler: {met.evidence}")
    if run.status != 0:
        return Program(language, source).failed(run, Category.COMPILE)
    try:
        made = await programs.get(box, "program", LARGEST_PROGRAM, limits)
    except Ended as ended:
        return TestResult(Category.COMPILE, ended.detail)
    return made if made is not None else TestResult(Category.COMPILE, f"the program is larger than {LARGEST_PROGRAM} bytes")


async def _put(box: Box, path: str, content: bytes, limits: Limits, *, executable: bool = False) -> Run:
    """Write a file: what is in its way, and why the box is over, is the program's doing, which had the box before."""
    try:
        await programs.put(box, path, content, limits, executable=executable)
    except Ended as ended:
        return Run(ended.ending, detail=ended.detail)
    return _FINE


def failed_by(run: Run, default: Category = Category.RUNTIME) -> TestResult:
    """What Python code that raised comes to, as it reports it."""
    kind, message, line = str(run.report.get("error")), str(run.report.get("message")), run.report.get("line")
    category = Category.SYNTAX if run.report.get("syntax") else default
    return TestResult(category, (f"{kind}: {message}" if message else kind)[:_LONGEST], line if isinstance(line, int) else 0)


def _telling(words: str) -> str:
    """The line of an error output that says most: the first with "error" in it, else the last."""
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line.lower()), lines[-1])[:_LONGEST]
