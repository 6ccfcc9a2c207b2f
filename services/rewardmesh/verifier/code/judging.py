"""From a completion and its tests to a verdict."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from rewardmesh.verifier.code.assertions import run_script
from rewardmesh.verifier.code.comparison import same_text, same_tokens, same_value
from rewardmesh.verifier.code.extraction import Code, find_code
from rewardmesh.verifier.code.programs import COMPILER, Program, compiled
from rewardmesh.verifier.code.results import PASSED, Category, TestResult, beyond_limits, shown
from rewardmesh.verifier.code.suite import CallTest, InvalidReference, StdinTest, Suite, read_suite
from rewardmesh.verifier.sandbox.box import Box
from rewardmesh.verifier.sandbox.inside import data
from rewardmesh.verifier.sandbox.languages import Language, Missing
from rewardmesh.verifier.sandbox.limits import Ending, Limits, Run
from rewardmesh.verifier.sandbox.sandboxes import Sandboxes
from rewardmesh.verifier.verdicts import NoVerdict, Reason, SampleFields, Status, StepVerdict, Verdict

if TYPE_CHECKING:
    from rewardmesh.verifier.verifiers.code import CodeOptions

RESULT_BYTES = 200
"""What one test's result takes in memory, roughly."""
LONG_BYTES = 2**16
"""Outputs beyond this are compared off the event loop."""
_read = lru_cache(maxsize=512)(read_suite)
"""The answers of a group have one reference."""


async def judge(sample: SampleFields, options: CodeOptions, sandboxes: Sandboxes) -> Verdict | NoVerdict:
    """See `verifiers.code.check`."""
    try:
        suite = _read(sample.references[0])
    except InvalidReference as error:
        return NoVerdict(Reason.INVALID_INPUT, f"references[0]: {error}")
    language = _language(options, suite, sandboxes)
    if isinstance(language, NoVerdict):
        return language
    limits = _limits(options, sandboxes)
    if isinstance(limits, NoVerdict):
        return limits
    code = find_code(sample.completion, language.fences) if options.extract == "fence" else Code(sample.completion, 0)
    if not code.text.strip():
        return Verdict(Status.FAIL, 0.0, "the completion holds no program", category=Category.MISSING)
    source = f"{suite.prefix}\n{code.text}" if suite.prefix else code.text
    found = await _Judging(options, sandboxes, limits, suite, language, source).results()
    if isinstance(found, NoVerdict):
        return found
    return _verdict(found, code, suite.prefix.count("\n") + 1 if suite.prefix else 0, options)


def _language(options: CodeOptions, suite: Suite, sandboxes: Sandboxes) -> Language | NoVerdict:
    name = options.language or suite.language or "python"
    language = sandboxes.languages.get(name)
    if language is None:
        return NoVerdict(Reason.INVALID_INPUT, f"references[0].language: {name[:50]!r} is none of {', '.join(sandboxes.languages)}")
    if isinstance(language, Missing):
        return NoVerdict(Reason.NOT_APPLICABLE, f"{name} is not installed on this server: {language.remedy}")
    if name != "python" and suite.script:
        return NoVerdict(Reason.NOT_APPLICABLE, f"test scripts judge Python only, not {name}")
    if name not in {"python", "javascript"} and any(isinstance(test, CallTest) for test in suite.tests):
        return NoVerdict(Reason.NOT_APPLICABLE, f"functions are called in Python and JavaScript only, not in {name}: give stdin and stdout")
    if name == "javascript" and any(isinstance(test, CallTest) and test.kwargs for test in suite.tests):
        return NoVerdict(Reason.INVALID_INPUT, "references[0].tests: JavaScript has no keyword arguments, give args")
    return language


def _limits(options: CodeOptions, sandboxes: Sandboxes) -> Limits | NoVerdict:
    """The limits of one test; INVALID_INPUT where they exceed the server's."""
    most = sandboxes.config.most
    asked = {"seconds": most.cpu_s, "memory_bytes": most.memory_bytes, "processes": most.processes, "output_bytes": most.output_bytes}
    for field, allowed in asked.items():
        if getattr(options, field) > allowed:
            return NoVerdict(Reason.INVALID_INPUT, f"options.{field}: {getattr(options, field)}; this server allows at most {allowed}")
    return Limits(
        cpu_s=options.seconds,
        wall_s=2 * options.seconds + 1,
        memory_bytes=options.memory_bytes,
        processes=options.processes,
        output_bytes=options.output_bytes,
        file_bytes=most.file_bytes,
        open_files=most.open_files,
    )


class _Judging:
    """One program and its tests."""

    def __init__(self, options: CodeOptions, sandboxes: Sandboxes, limits: Limits, suite: Suite, language: Language, source: str) -> None:
        self._options, self._sandboxes, self._limits = options, sandboxes, limits
        self._suite, self._language, self._source = suite, language, source
        self._until = 0.0

    async def results(self) -> list[TestResult] | NoVerdict:
        """One result a test, in order: the tests', then the script's assertions'. Raises SandboxError."""
        parts = (self._sandboxes.name, self._language.name, self._source, self._suite, self._limits, self._options)
        found: list[TestResult] | NoVerdict = await self._sandboxes.memo.get("verdict", parts, self._found)
        return found

    async def _found(self) -> tuple[list[TestResult] | NoVerdict, int | None]:
        """The results, and their size when they may be kept: time and memory depend on the machine's load."""
        self._until = time.monotonic() + self._sandboxes.config.budget_s
        found = await self._run()
        if isinstance(found, NoVerdict) or not all(result.cacheable for result in found):
            return found, None
        return found, sum(RESULT_BYTES + len(result.evidence) for result in found)

    async def _compiled(self) -> tuple[bytes | TestResult, int | None]:
        async with self._sandboxes.box(compiler=self._language.compiler_box) as box:
            made = await compiled(box, self._language, self._source, self._left(COMPILER))
        if isinstance(made, TestResult):
            return made, RESULT_BYTES if made.cacheable else None
        return made, len(made)

    async def _run(self) -> list[TestResult] | NoVerdict:
        binary: bytes | None = None
        if self._language.compile:
            made = await self._sandboxes.memo.get("program", (self._language.compile, self._source), self._compiled)
            if isinstance(made, TestResult):
                return [made] * max(1, len(self._suite.tests))
            binary = made
        found = await self._run_tests(Program(self._language, self._source, binary))
        if self._suite.script:
            judged = await run_script(self._sandboxes, self._suite, self._source, self._left(self._limits))
            self._sandboxes.count(judged.ending)
            if judged.invalid:
                return NoVerdict(Reason.INVALID_INPUT, f"references[0]: {judged.invalid}")
            if judged.not_applicable:
                if self._options.on_opaque == "absent":
                    return NoVerdict(Reason.NOT_APPLICABLE, judged.not_applicable)
                found.append(TestResult(Category.WRONG_ANSWER, judged.not_applicable))
            found.extend(judged.results)
        return found

    def _left(self, limits: Limits) -> Limits:
        """Limits within what is left of the time of all tests: a program that hangs must meet them before the item's own limit."""
        return replace(limits, wall_s=min(limits.wall_s, max(0.1, self._until - time.monotonic())))

    async def _run_tests(self, program: Program) -> list[TestResult]:
        found: list[TestResult] = []
        async with AsyncExitStack() as stack:
            box: Box | None = None
            for test in self._suite.tests:
                if time.monotonic() > self._until:
                    detail = f"not run: the tests before it took {self._sandboxes.config.budget_s:g} s together"
                    found.append(TestResult(Category.TIMEOUT, detail))
                    continue
                if box is None or not box.usable:
                    # The test before has cost its sandbox.
                    await stack.aclose()
                    box = await stack.enter_async_context(self._sandboxes.box())
                    run = await program.load(box, self._limits)
                    if run.ending is not Ending.EXIT:
                        found.append(await self._result(program, test, run))
                        continue
                run = await program.answer(box, test, self._left(self._limits))
                self._sandboxes.observe(run)
                found.append(await self._result(program, test, run))
        return found

    async def _result(self, program: Program, test: StdinTest | CallTest, run: Run) -> TestResult:
        met = beyond_limits(run)
        if met is not None:
            return met
        if isinstance(test, CallTest):
            return await self._call_result(program, test, run)
        if run.status != 0:
            return program.failed(run)
        output = run.stdout.decode("utf-8", "replace")
        options = self._options

        def same() -> bool:
            if options.output == "tokens":
                return same_tokens(test.stdout, output, options.tolerance)
            return same_text(test.stdout, output)

        if await _off_loop(same, len(run.stdout)):
            return PASSED
        return TestResult(Category.WRONG_ANSWER, f"for stdin {shown(test.stdin, 80)} wrote {shown(output)}, expected {shown(test.stdout)}")

    async def _call_result(self, program: Program, test: CallTest, run: Run) -> TestResult:
        arguments = [*map(shown, test.args), *(f"{key}={shown(value)}" for key, value in test.kwargs.items())]
        call = f"{test.function}({', '.join(arguments)[:200]})"
        if "value" not in run.report:
            if run.report.get("error") == "NotData":
                return TestResult(Category.WRONG_ANSWER, f"{call} returned no data: {run.report.get('message')}"[:400])
            if run.report.get("message") == f"name '{test.function.partition('.')[0]}' is not defined":
                return TestResult(Category.MISSING, f"{test.function} is not defined")
            if run.report or run.status:
                return program.failed(run)
            return TestResult(Category.RUNTIME, f"{call} ended its process without a value")

        def compare() -> tuple[bool, str]:
            value = data.decode(run.report["value"])
            return same_value(test.expected, value, self._options.tolerance), shown(value)

        try:
            same, value = await _off_loop(compare, run.report_bytes)
        except data.NotData as error:
            return TestResult(Category.WRONG_ANSWER, f"{call} returned no data: {error}"[:400])
        return PASSED if same else TestResult(Category.WRONG_ANSWER, f"{call} is {value}, expected {shown(test.expected)}")


async def _off_loop(work: Callable[[], Any], size: int) -> Any:
    """Do some work: here when it is small, in a thread otherwise."""
    return await asyncio.to_thread(work) if size > LONG_BYTES else work()


def _verdict(found: Sequence[TestResult], code: Code, prefix_lines: int, options: CodeOptions) -> Verdict:
    passed = sum(result.category is None for result in found)
    steps = tuple(
        StepVerdict(index, *((Status.PASS, 1.0) if result.category is None else (Status.FAIL, 0.0)), result.evidence)
        for index, result in enumerate(found)
    )
    first = next((result for result in found if result.category is not None), None)
    if first is None:
        return Verdict(Status.PASS, 1.0, f"{passed} of {len(found)} tests passed", steps=steps)
    located = next((result for result in found if result.category is not None and result.line), first)
    span = code.line_span(located.line - prefix_lines) if located.line else None
    evidence = f"{passed} of {len(found)} tests passed; first failure: {first.category}: {first.evidence}"
    if passed and options.grading == "fraction":
        return Verdict(Status.PARTIAL, passed / len(found), evidence, span=span, steps=steps, category=first.category or "")
    return Verdict(Status.FAIL, 0.0, evidence, span=span, steps=steps, category=first.category or "")
