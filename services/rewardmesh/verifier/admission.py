"""Checks of `program_dirs`: run on labelled examples at the server's start, and admitted when they agree with enough of them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from rewardmesh.serving.logs import get_logger
from rewardmesh.verifier.registry import Measured, Verifier, in_sandboxes
from rewardmesh.verifier.sandbox import programs
from rewardmesh.verifier.sandbox.inside import data
from rewardmesh.verifier.sandbox.limits import Ending, Limits, Run, SandboxError
from rewardmesh.verifier.sandbox.sandboxes import Sandboxes
from rewardmesh.verifier.verdicts import NoVerdict, Reason, SampleFields, Status, Verdict, failed, passed
from rewardmesh.verifier.verifiers.program import DESCRIPTION, ProgramOptions

log = get_logger(__name__)

PASSING = 0.5
"""A score from here on agrees with a label of true."""
CLOSE = 0.1
"""How far a score may lie from an example's to agree with it."""


class Example(BaseModel):
    """One line of NAME.examples.jsonl."""

    model_config = ConfigDict(extra="forbid", strict=True)

    prompt: str = ""
    completion: str
    references: list[str] = []
    label: bool | None = None
    score: float | None = Field(None, ge=0, le=1)

    @model_validator(mode="after")
    def _one_answer(self) -> Example:
        if (self.label is None) == (self.score is None):
            raise ValueError("give label or score, and not both")
        return self

    def agrees(self, score: float) -> bool:
        """Whether a check's score is what the example says."""
        if self.score is not None:
            return abs(score - self.score) <= CLOSE
        return (score >= PASSING) == self.label

    @property
    def right(self) -> bool:
        """Whether the completion is to pass."""
        return self.label if self.label is not None else (self.score or 0.0) >= PASSING


@dataclass(frozen=True)
class Program:
    """A check and what its examples say of it."""

    name: str
    source: str
    refused: str = ""
    """Why it is not admitted; empty when it is."""
    measured: Measured | None = None


@dataclass(frozen=True)
class Rule:
    """What a check must reach."""

    min_agreement: float
    min_examples: int


async def admit(folders: Sequence[Path], rule: Rule, sandboxes: Sandboxes) -> dict[str, Program]:
    """All checks of the folders by name, admitted or refused. Raises ValueError for two of one name, OSError for a missing folder."""
    paths: dict[str, Path] = {}
    for folder in folders:
        for path in sorted(one for one in await asyncio.to_thread(list, folder.iterdir()) if one.suffix == ".py"):
            if path.stem in paths:
                raise ValueError(f"program_dirs: two checks are named {path.stem!r}, one of them in {folder}")
            paths[path.stem] = path
    found: dict[str, Program] = {}
    for name, path in sorted(paths.items()):
        program = found[name] = await _tried(path, rule, sandboxes)
        if program.refused:
            log.error("check refused", program=name, reason=program.refused)
        else:
            log.info("check admitted", program=name, measured=program.measured)
    return found


def verifiers_of(found: Mapping[str, Program]) -> dict[str, Verifier]:
    """`program`, which takes a check by its option, and `program/NAME` for each admitted one, with what was measured."""

    async def by_option(sample: SampleFields, options: ProgramOptions, sandboxes: Sandboxes) -> Verdict | NoVerdict:
        program = found.get(options.name)
        if program is None:
            return NoVerdict(Reason.NOT_APPLICABLE, f"options.name: no check {options.name!r:.60}; known: {', '.join(found) or 'none'}")
        return await _checked(program, sample, options, sandboxes)

    made = {"program": in_sandboxes("program", DESCRIPTION, ("completion.text",), ProgramOptions, by_option)}
    for program in found.values():
        if not program.refused:
            name = f"program/{program.name}"
            check = partial(_named, program)
            made[name] = in_sandboxes(name, DESCRIPTION, ("completion.text",), _NamedOptions, check, program.measured)
    return made


class _NamedOptions(ProgramOptions):
    name: str = Field("", max_length=0, description="Not needed: the verifier's name says it.")


async def _named(program: Program, sample: SampleFields, options: ProgramOptions, sandboxes: Sandboxes) -> Verdict | NoVerdict:
    return await _checked(program, sample, options, sandboxes)


async def _tried(path: Path, rule: Rule, sandboxes: Sandboxes) -> Program:
    source = await asyncio.to_thread(path.read_text, "utf-8")
    beside = path.with_name(f"{path.stem}.examples.jsonl")
    try:
        text = await asyncio.to_thread(beside.read_text, "utf-8")
        examples = [TypeAdapter(Example).validate_json(line) for line in text.splitlines() if line.strip()]
    except OSError as error:
        return Program(path.stem, source, f"its labelled examples cannot be read: {error}")
    except ValidationError as error:
        return Program(path.stem, source, f"{beside.name}: {error.errors(include_url=False)[0]['msg']}")
    if len(examples) < rule.min_examples:
        return Program(path.stem, source, f"{len(examples)} labelled examples; it needs {rule.min_examples} (program_min_examples)")
    options = ProgramOptions(name=path.stem, on_timeout="absent")
    program = Program(path.stem, source)
    try:
        results = [await _checked(program, _sample(example), options, sandboxes) for example in examples]
    except SandboxError as error:
        return Program(path.stem, source, f"it cannot be tried: {error}")
    agreeing = sum(isinstance(one, Verdict) and example.agrees(one.score) for example, one in zip(examples, results, strict=True))
    measured = _measured(examples, results)
    if agreeing >= rule.min_agreement * len(examples):
        return Program(path.stem, source, "", measured)
    absent = next((one.detail for one in results if isinstance(one, NoVerdict)), "")
    detail = f"it agrees with {agreeing} of {len(examples)} labelled examples; it needs {rule.min_agreement:.0%} (program_min_agreement)"
    return Program(path.stem, source, f"{detail}{'; ' if absent else ''}{absent}", measured)


def _sample(example: Example) -> SampleFields:
    return SampleFields(example.completion, tuple(example.references), (("user", example.prompt),) if example.prompt else ())


def _measured(examples: Sequence[Example], results: Sequence[Verdict | NoVerdict]) -> Measured:
    told = [(example.right, one.score >= PASSING) for example, one in zip(examples, results, strict=True) if isinstance(one, Verdict)]
    passes = [right for right, passing in told if passing]
    rights = [passing for right, passing in told if right]
    return Measured(
        len(told),
        sum(passes) / len(passes) if passes else None,
        sum(rights) / len(rights) if rights else None,
        len(results) - len(told),
    )


async def _checked(program: Program, sample: SampleFields, options: ProgramOptions, sandboxes: Sandboxes) -> Verdict | NoVerdict:
    """What a check says of a sample. Raises SandboxError."""
    if program.refused:
        return NoVerdict(Reason.NOT_APPLICABLE, f"options.name: check {program.name!r} was not admitted: {program.refused}")
    limits = _limits(options, sandboxes)
    if isinstance(limits, NoVerdict):
        return limits
    arguments = ("\n\n".join(content for _, content in sample.prompt), sample.completion, list(sample.references))
    async with sandboxes.box() as box:
        run = await programs.call(box, program.source, "check", (arguments, {}), limits)
    sandboxes.observe(run)
    return _read(program.name, run, options)


def _limits(options: ProgramOptions, sandboxes: Sandboxes) -> Limits | NoVerdict:
    most = sandboxes.config.most
    for field, allowed in (("seconds", most.cpu_s), ("memory_bytes", most.memory_bytes)):
        if getattr(options, field) > allowed:
            return NoVerdict(Reason.INVALID_INPUT, f"options.{field}: {getattr(options, field)}; this server allows at most {allowed}")
    return Limits(cpu_s=options.seconds, wall_s=2 * options.seconds + 1, memory_bytes=options.memory_bytes, processes=16)


def _read(name: str, run: Run, options: ProgramOptions) -> Verdict | NoVerdict:
    if run.ending is not Ending.EXIT:
        detail = f"check {name}: {run.detail}"
        if run.ending in {Ending.CPU, Ending.WALL, Ending.MEMORY}:
            reason = Reason.INFRASTRUCTURE if run.ending is Ending.MEMORY else Reason.DEADLINE
            return failed(detail) if options.on_timeout == "fail" else NoVerdict(reason, detail)
        return NoVerdict(Reason.INFRASTRUCTURE, detail)
    if "value" not in run.report:
        where = f" at line {run.report['line']}" if run.report.get("line") else ""
        words = f"raised {run.report.get('error')}: {run.report.get('message')}{where}" if run.report else "ended without a value"
        return NoVerdict(Reason.INFRASTRUCTURE, f"check {name} {words}")
    try:
        value = data.decode(run.report["value"])
    except data.NotData as error:
        return NoVerdict(Reason.INFRASTRUCTURE, f"check {name} returned no data: {error}")
    return _verdict(name, value)


def _verdict(name: str, value: Any) -> Verdict | NoVerdict:
    evidence = f"check {name}"
    if isinstance(value, tuple | list) and len(value) == 2 and isinstance(value[1], str):
        value, evidence = value[0], value[1]
    if value is None:
        return NoVerdict(Reason.ABSTAINED, f"check {name} cannot tell")
    if not isinstance(value, bool | int | float) or not math.isfinite(value) or not 0 <= value <= 1:
        return NoVerdict(Reason.INFRASTRUCTURE, f"check {name} returned {value!r:.80}, neither a bool nor a score in [0, 1]")
    score = float(value)
    if score == 1:
        return passed(evidence)
    return failed(evidence) if score == 0 else Verdict(Status.PARTIAL, score, evidence)
