"""Runs programs in a box: a Python script, one call of a Python function, or a command; and tells how each ended."""

from __future__ import annotations

import errno
import json
import marshal
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rewardmesh.verifier.sandbox.box import Box, Ended
from rewardmesh.verifier.sandbox.limits import Ending, Limits, Run

_NO_MEMORY = (b"std::bad_alloc", b"memory allocation of", b"heap out of memory", b"MemoryError", b"Cannot allocate memory")
_INSIDE = {"": Ending.EXIT, "wall": Ending.WALL, "output": Ending.OUTPUT}


async def script(box: Box, code: str, stdin: bytes, limits: Limits) -> Run:
    """Run Python code as a program."""
    return await _run(box, {"op": "script"}, stdin, code.encode("utf-8", "surrogatepass"), limits=limits)


async def call(box: Box, code: str, name: str, arguments: tuple[Sequence[Any], Mapping[str, Any]], limits: Limits) -> Run:
    """Run Python code and call its function; the run's report holds "value" (see `inside.data`) or the exception.

    Args:
        name: see `inside.running.find`.
        arguments: pair (positional, keywords) of data; raises ValueError when they are none.
    """
    encoded = marshal.dumps((list(arguments[0]), dict(arguments[1])), 4)
    return await _run(box, {"op": "call", "name": name}, b"", code.encode("utf-8", "surrogatepass"), encoded, limits=limits)


async def command(box: Box, argv: Sequence[str], environment: Mapping[str, str], stdin: bytes, limits: Limits) -> Run:
    """Run a program of the box."""
    return await _run(box, {"op": "exec", "argv": list(argv), "env": dict(environment)}, stdin, limits=limits)


async def put(box: Box, path: str, content: bytes, limits: Limits, *, executable: bool = False) -> None:
    """Write a file below the work folder. Raises SandboxError; Ended, also when there is no room."""
    header, _ = await box.ask({"op": "put", "path": path, "mode": 0o700 if executable else 0o600}, content, limits=limits)
    if header.get("op") != "done":
        await box.close()
        raise Ended(Ending.FILE_SIZE, f"the work folder takes no file of {len(content)} bytes more")


async def get(box: Box, path: str, most: int, limits: Limits) -> bytes | None:
    """Content of a file below the work folder; None when there is none or it is larger than `most` bytes. Raises SandboxError, Ended."""
    header, blobs = await box.ask({"op": "get", "path": path, "most": most + 1}, limits=limits)
    content = blobs[0] if header.get("op") == "done" and blobs else None
    return content if content is not None and len(content) <= most else None


async def _run(box: Box, header: dict[str, Any], *blobs: bytes, limits: Limits) -> Run:
    began = time.monotonic()
    try:
        answer, outputs = await box.ask({**header, "limits": limits.inside()}, *blobs, limits=limits)
        run = _read(answer, outputs, limits)
    except Ended as ended:
        seconds = time.monotonic() - began
        return Run(ended.ending, wall_s=seconds, detail=ended.detail)
    except (ValueError, TypeError, KeyError) as error:
        await box.close()
        return Run(Ending.LOST, detail=f"the sandbox answered nonsense: {error}", wall_s=time.monotonic() - began)
    overhead = max(0.0, time.monotonic() - began - run.wall_s)
    return replace(run, overhead_s=overhead)


def _read(answer: dict[str, Any], outputs: list[bytes], limits: Limits) -> Run:
    """The run that the agent tells of; raises ValueError, TypeError, KeyError for nonsense."""
    if answer.get("op") != "ended" or len(outputs) != 3:
        raise ValueError(f"{answer.get('op')!r:.50} with {len(outputs)} outputs")
    stdout, stderr, told = outputs
    report: dict[str, object] = {}
    if told:
        try:
            found = json.loads(told)
            report = found if isinstance(found, dict) else {}
        except (ValueError, RecursionError):
            report = {}
    ending = _INSIDE[answer["ending"]]
    status, cpu_s, wall_s = int(answer["status"]), float(answer["cpu_s"]), float(answer["wall_s"])
    ending, detail = _limit_met(ending, status, cpu_s, stderr, report, limits)
    return Run(ending, status, stdout, stderr, report, len(told), cpu_s, wall_s, detail=detail)


def _limit_met(
    ending: Ending, status: int, cpu_s: float, stderr: bytes, report: Mapping[str, object], limits: Limits
) -> tuple[Ending, str]:
    """A limit of the kernel's that the program has run into, as the way it ended shows."""
    code = report.get("errno")
    if code == errno.EAGAIN or report.get("message") == "can't start new thread":
        return Ending.PROCESSES, f"more than {limits.processes} processes and threads"
    match ending:
        case Ending.WALL:
            return ending, f"took longer than {limits.wall_s:g} s"
        case Ending.OUTPUT:
            return ending, f"wrote more than {limits.output_bytes} bytes"
    if status == -signal.SIGXCPU or cpu_s > limits.cpu_s or (status == -signal.SIGKILL and cpu_s >= limits.cpu_s):
        return Ending.CPU, f"more than {limits.cpu_s:g} s of processor time"
    if status == -signal.SIGXFSZ or code in {errno.EFBIG, errno.ENOSPC}:
        return Ending.FILE_SIZE, f"a file of more than {limits.file_bytes} bytes, or more files than the work folder holds"
    if report.get("error") == "MemoryError" or (status != 0 and any(words in stderr for words in _NO_MEMORY)):
        return Ending.MEMORY, f"more than {limits.memory_bytes} bytes of memory"
    return ending, ""
