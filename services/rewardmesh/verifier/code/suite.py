"""Tests as a reference states them.

The first reference of a sample is one of:

- a JSON object `{"tests": [...]}`, each test `{"stdin": text, "stdout": text}` or `{"call": "f", "args": [...], "kwargs": {...},
  "expected": value}`; beside "tests" it may hold "language", "prefix" (code put before the completion's, for completions that go on from a
  prompt), "assertions" (a test script) and "entry_point" (the function that the script's `check(candidate)` gets);
- a JSON object `{"inputs": [...], "outputs": [...], "fn_name": "f"}`: programs with stdin and stdout, or, with `fn_name`, calls whose
  inputs are lists of arguments;
- a JSON list of strings: assertions, one or more each;
- any other text: a test script in Python.

A test script is Python with `assert` statements. Functions named `check` (given the entry point) and `test...` that it only defines are
called at its end.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

MOST_TESTS = 1000


class InvalidReference(ValueError):
    """A reference that states no tests."""


@dataclass(frozen=True, slots=True)
class StdinTest:
    """A program's output for an input."""

    stdin: str
    stdout: str


@dataclass(frozen=True, slots=True)
class CallTest:
    """A function's value for arguments."""

    function: str
    args: list[Any]
    kwargs: dict[str, Any]
    expected: Any


@dataclass(frozen=True, slots=True)
class Suite:
    """All tests of one task: a list of them, a test script, or both."""

    tests: tuple[StdinTest | CallTest, ...] = ()
    script: str = ""
    entry_point: str | None = None
    language: str | None = None
    prefix: str = ""


class _Test(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    stdin: str | None = None
    stdout: str | None = None
    call: str | None = Field(None, min_length=1)
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    expected: Any = None

    @model_validator(mode="after")
    def _one_kind(self) -> _Test:
        given = self.model_fields_set
        if self.call is not None:
            if {"stdin", "stdout"} & given or "expected" not in given:
                raise ValueError("a test with call has args, kwargs and expected, and neither stdin nor stdout")
        elif self.stdout is None or {"args", "kwargs", "expected"} & given:
            raise ValueError("a test has stdin and stdout, or call, args, kwargs and expected")
        return self

    def read(self) -> StdinTest | CallTest:
        if self.call is not None:
            return CallTest(self.call, self.args, self.kwargs, self.expected)
        return StdinTest(self.stdin or "", self.stdout or "")


class _Suite(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    language: str | None = None
    tests: list[_Test] = Field([], max_length=MOST_TESTS)
    assertions: str | list[str] = ""
    entry_point: str | None = None
    prefix: str = ""
    inputs: list[Any] = Field([], max_length=MOST_TESTS)
    outputs: list[Any] = []
    fn_name: str | None = None


def read_suite(reference: str) -> Suite:
    """The tests in a reference; raises InvalidReference, naming the field."""
    try:
        found = json.loads(reference)
    except RecursionError as error:
        raise InvalidReference("nested too deeply") from error
    except ValueError:
        return _script(Suite(script=reference))
    if isinstance(found, list) and found and all(isinstance(one, str) for one in found):
        return _script(Suite(script="\n".join(found)))
    if not isinstance(found, dict):
        return _script(Suite(script=reference))
    try:
        given = _Suite.model_validate(found)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise InvalidReference(f"{'.'.join(map(str, first['loc'])) or 'object'}: {first['msg']}") from error
    script = given.assertions if isinstance(given.assertions, str) else "\n".join(given.assertions)
    tests = (*(test.read() for test in given.tests), *_paired(given))
    if not tests and not script.strip():
        raise InvalidReference("tests, inputs or assertions: there are none")
    return Suite(tests, script, given.entry_point, given.language, given.prefix)


def _script(suite: Suite) -> Suite:
    if not suite.script.strip():
        raise InvalidReference("is empty: neither tests nor a test script")
    return suite


def _paired(given: _Suite) -> list[StdinTest | CallTest]:
    if len(given.inputs) != len(given.outputs):
        raise InvalidReference(f"inputs and outputs: {len(given.inputs)} and {len(given.outputs)}; one output an input")
    if given.fn_name is not None:
        if not all(isinstance(one, list) for one in given.inputs):
            raise InvalidReference("inputs: with fn_name each is the list of arguments of one call")
        return [CallTest(given.fn_name, args, {}, expected) for args, expected in zip(given.inputs, given.outputs, strict=True)]
    return [StdinTest(_text(one), _text(two)) for one, two in zip(given.inputs, given.outputs, strict=True)]


def _text(value: Any) -> str:
    """Text as it is, or as a list of its lines."""
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return "\n".join(value)
    if not isinstance(value, str):
        raise InvalidReference("inputs and outputs: without fn_name each is a text or a list of lines")
    return value
