"""What every contender is to the benchmark: a process that answers one JSON line for each command it is given.

`gradient PATH` writes the gradient of the batch's loss, unclipped, to a safetensors file; `step` makes one whole update and is timed. This
module runs in the peer's environment too: nothing but torch and the standard library.
"""

from __future__ import annotations

import json
import re
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

_RESET_PEAK = "5"


@dataclass(frozen=True)
class Update:
    """What an update did: the loss of the whole batch, and the norm of its gradient before clipping."""

    loss: float
    gradient_norm: float


@dataclass(frozen=True)
class Sequence:
    """A completion of the batch; `group` numbers its prompt, `advantage` comes of the group's rewards, one old log-prob a token."""

    group: int
    prompt: list[int]
    completion: list[int]
    reward: float
    advantage: float
    old_log_probs: list[float]


def read_batch(path: Path) -> list[Sequence]:
    """Read what `batch.write_batch` wrote."""
    return [Sequence(**record) for record in json.loads(path.read_text())]


def serve(step: Callable[[], Update], gradient: Callable[[Path], Update], about: dict[str, Any], replies: TextIO) -> None:
    """Answer commands until there are no more. `replies` is where answers go: libraries print to standard output."""

    def reply(values: dict[str, Any]) -> None:
        replies.write(json.dumps(values) + "\n")
        replies.flush()

    reply(about)
    for line in sys.stdin:
        command, _, argument = line.strip().partition(" ")
        resting = _reset_peak()
        cpu, wall = time.process_time(), time.perf_counter()
        done = step() if command == "step" else gradient(Path(argument))
        seconds, cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
        reply(
            {
                "seconds": seconds,
                "cpu_seconds": cpu_seconds,
                "loss": done.loss,
                "gradient_norm": done.gradient_norm,
                "peak_mib": _peak_mib(),
                "resting_mib": resting,
            }
        )


def _reset_peak() -> float:
    """Forget the process's peak of memory; returns what it has now, in MiB."""
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text(_RESET_PEAK)
    return _peak_mib()


def _peak_mib() -> float:
    """Greatest resident memory since `_reset_peak`, in MiB."""
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return int(found[1]) / 1024 if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
