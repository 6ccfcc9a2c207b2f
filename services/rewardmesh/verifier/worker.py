"""The program of a worker process: reads chunks of samples on stdin, answers one frame a sample, dies rather than hangs.

Protocol (all frames: 4 bytes little-endian length, then the body). Parent to worker: a pickled `Chunk`. Worker to parent: JSON lists,
first ["ready"], then for each sample in order ["verdict", ...], ["none", ...], ["error", ...], or ["memory", ...] after which the worker
exits (for a group ["group", seconds, [...]] with what it found of each sample); ["yield"] when it gives the rest of the chunk back;
["loading"] and ["loaded"] around what a check loads once a process. JSON, because the parent must not unpickle what comes from a process
that reads hostile text.

Limits: the address space by RLIMIT_AS; time by the parent, which kills the process, and by an interval timer whose signal the kernel
acts on even when the parent is gone and the interpreter is stuck in C code.
"""

import json
import os
import pickle
import resource
import signal
import struct
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

from rewardmesh.verifier.loading import LOADING_S, announce_by
from rewardmesh.verifier.registry import Options, Verifier, discover
from rewardmesh.verifier.verdicts import Group, NoVerdict, SampleFields, Verdict, Work, line_of, reportable

HEADER = struct.Struct("<I")


@dataclass(frozen=True)
class Chunk:
    """Work for one worker."""

    verifier: str
    options: Options
    samples: list[Work]
    yield_after_s: float
    """The worker gives back what it has not begun after this time, so that a cancelled call soon stops costing."""
    item_limit_s: float
    """The kernel kills the worker when one sample takes longer."""


def frame(body: bytes) -> bytes:
    """`body` behind its length."""
    return HEADER.pack(len(body)) + body


def main() -> None:
    """Serve until stdin ends. Arguments: address-space limit in bytes, then packages of further verifiers."""
    # Whatever a verifier prints must not get into the protocol; the terminal's Ctrl-C is the parent's business.
    source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    verifiers = discover(sys.argv[2:])
    limit = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    announce_by(lambda: _loading(sink))
    _send(sink, ["ready"])
    while (header := source.read(HEADER.size)) and len(header) == HEADER.size:
        # Pickle only ever comes from the parent, over a private pipe.
        chunk: Chunk = pickle.loads(source.read(HEADER.unpack(header)[0]))
        _run(chunk, verifiers[chunk.verifier], sink)


def _run(chunk: Chunk, verifier: Verifier, sink: BinaryIO) -> None:
    began = time.monotonic()
    for sample in chunk.samples:
        if time.monotonic() - began > chunk.yield_after_s:
            _send(sink, ["yield"])
            break
        signal.setitimer(signal.ITIMER_REAL, chunk.item_limit_s)
        reply = _check(verifier, sample, chunk.options)
        signal.setitimer(signal.ITIMER_REAL, 0)
        _send(sink, reply)
        if reply[0] == "memory":
            sink.close()
            os._exit(1)


@contextmanager
def _loading(sink: BinaryIO) -> Iterator[None]:
    left_s, _ = signal.setitimer(signal.ITIMER_REAL, LOADING_S + 1)
    _send(sink, ["loading"])
    yield
    _send(sink, ["loaded"])
    signal.setitimer(signal.ITIMER_REAL, left_s)


def _check(verifier: Verifier, work: Work, options: Options) -> list[Any]:
    began = time.perf_counter()
    samples = work.samples if isinstance(work, Group) else (work,)
    try:
        results = verifier.verify_group(samples, options) if verifier.verify_group else [verifier.verify(samples[0], options)]
        if len(results) != len(samples):
            raise ValueError(f"{len(results)} results for {len(samples)} samples")
    except MemoryError:
        return ["memory", time.perf_counter() - began]
    except Exception as error:  # noqa: BLE001 - a bug in one verifier is that item's absence, logged by the parent
        detail = f"verifier {verifier.name} raised {type(error).__name__}: {str(error)[:200]}"
        trace = "".join(traceback.format_exception(error, limit=-8))
        return ["error", time.perf_counter() - began, reportable(detail), reportable(trace)]
    seconds = time.perf_counter() - began
    told = [_told(result, sample) for result, sample in zip(results, samples, strict=True)]
    if isinstance(work, Group):
        return ["group", seconds, told]
    return ["verdict" if isinstance(results[0], Verdict) else "none", seconds, *told[0]]


def _told(result: Verdict | NoVerdict, sample: SampleFields) -> list[Any]:
    if isinstance(result, Verdict):
        span = [*result.span, line_of(result, sample.completion)] if result.span else None
        texts = reportable(result.evidence), reportable(result.extracted_answer)
        return [result.status.value, float(result.score), *texts, span, result.steps, result.category]
    return [result.reason.value, reportable(result.detail), result.retryable]


def _send(sink: BinaryIO, reply: list[Any]) -> None:
    sink.write(frame(json.dumps(reply).encode()))
    sink.flush()


if __name__ == "__main__":
    main()
