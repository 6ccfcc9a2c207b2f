"""Runs Python code in a fork of the agent: as a program, or to call one function of it. Says by its report how it went.

The report is JSON on a pipe of its own: {"error": type, "message", "line", "errno"} or {"value": encoding}. The code under test may write
there what it likes; it says nothing of what was expected.
"""

from __future__ import annotations

import builtins
import io
import marshal
import os
import sys
import types

from rewardmesh.verifier.sandbox.inside import data, frames

TYPE_CHECKING = False  # typing's own would have to be imported, which costs more than all else here
if TYPE_CHECKING:
    from typing import Any

FILENAME = "solution.py"
"""Under this name the code stands in tracebacks."""
_LONGEST_MESSAGE = 500


def script(code: str, report: int) -> None:
    """Run `code` as a program."""
    _streams()
    module = _module("__main__")
    try:
        exec(compile(code, FILENAME, "exec", dont_inherit=True), module.__dict__)
    except SystemExit:
        raise
    except BaseException as error:  # noqa: BLE001 - whatever ends the program is reported
        _send(report, told(error))
        _print(error)
        sys.exit(1)


def call(code: str, name: str, arguments: bytes, report: int) -> None:
    """Run `code`, call its function `name`, and report what it returns."""
    _streams()
    try:
        positional, keywords = marshal.loads(arguments)
        function = find(load(code), name)
        answer: dict[str, Any] = {"value": data.encode(function(*positional, **keywords))}
        text = data.dumps(answer)
    except BaseException as error:  # noqa: BLE001 - whatever the call raises is its result
        text = frames.written(told(error)).encode()
        _print(error)
    _flush()
    _write(report, text)
    # Nothing that the code has left behind (threads, atexit) can change the value any more.
    os._exit(0)


def load(code: str) -> dict[str, Any]:
    """The names that the code defines."""
    module = _module("solution")
    exec(compile(code, FILENAME, "exec", dont_inherit=True), module.__dict__)
    return module.__dict__


def find(names: dict[str, Any], name: str) -> Any:
    """A function by its name: `f`, `Class.f` (of an object made without arguments), or a method of a class `Solution`."""
    first, _, rest = name.partition(".")
    if first in names:
        found = names[first]
        if rest:
            found = getattr(found() if isinstance(found, type) else found, rest)
    elif isinstance(names.get("Solution"), type) and hasattr(names["Solution"], name):
        found = getattr(names["Solution"](), name)
    else:
        raise NameError(f"name '{first}' is not defined", name=first)
    if not callable(found):
        raise TypeError(f"'{name}' is not callable")
    return found


def told(error: BaseException) -> dict[str, Any]:
    """What is reported of an exception. `line` is that of the code under test, from 1; 0 when unknown."""
    line = 0
    if isinstance(error, SyntaxError) and error.filename == FILENAME:
        line = error.lineno or 0
    else:
        trace = error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code.co_filename == FILENAME:
                line = trace.tb_lineno
            trace = trace.tb_next
    try:
        message = str(error)[:_LONGEST_MESSAGE]
    except Exception:  # noqa: BLE001 - the exception's own code may do anything
        message = "?"
    kind = type(error)
    # The nearest class that every interpreter has: a test may expect it.
    base = next((base.__name__ for base in kind.__mro__ if getattr(builtins, base.__name__, None) is base), "Exception")
    return {
        "error": kind.__name__[:100],
        "base": base,
        "message": message,
        "line": line,
        "errno": error.errno if isinstance(error, OSError) else None,
        "syntax": isinstance(error, SyntaxError) and error.filename == FILENAME,
    }


def _module(name: str) -> types.ModuleType:
    module = types.ModuleType(name)
    module.__file__ = FILENAME
    sys.modules[name] = module
    return module


def _streams() -> None:
    sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0)), "utf-8", "surrogateescape")
    sys.stdout = io.TextIOWrapper(io.BufferedWriter(io.FileIO(1, "w")), "utf-8", "surrogateescape")
    sys.stderr = io.TextIOWrapper(io.BufferedWriter(io.FileIO(2, "w")), "utf-8", "backslashreplace", line_buffering=True)
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr  # type: ignore[misc]
    sys.argv = [FILENAME]


def _print(error: BaseException) -> None:
    try:
        import traceback

        traceback.print_exception(error, limit=-5)
    except BaseException:  # noqa: BLE001 - the exception's own code, or a replaced sys.stderr
        os.write(2, b"an exception that cannot be printed\n")


def _flush() -> None:
    try:
        sys.stdout.flush()
    except BaseException:  # noqa: BLE001 - sys.stdout may be anything by now
        return


def _send(report: int, header: dict[str, Any]) -> None:
    _write(report, frames.written(header).encode())


def _write(report: int, text: bytes) -> None:
    rest = memoryview(text)
    while rest:
        rest = rest[os.write(report, rest) :]
