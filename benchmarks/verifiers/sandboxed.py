"""Python programs a second in each kind of sandbox that is installed, through gRPC, and what a sandbox adds to one run.

No two programs are the same: nothing can be remembered from an earlier run. The overhead is the median time that the service takes for a
program with one test, one program at a time, less the median time of the same interpreter on the same programs without any sandbox.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.verifiers.served import served
from rewardmesh.client import AsyncClient, sample
from rewardmesh.client.results import Verdict
from rewardmesh.v1 import common_pb2 as pb

KINDS = {"bubblewrap": "bwrap", "gvisor": "runsc"}
"""Sandbox -> the program that has to be installed for it."""


class WrongVerdictError(Exception):
    """A right program did not pass, or a wrong one did."""


def installed() -> list[str]:
    """Kinds of sandbox whose program is there."""
    return [kind for kind, program in KINDS.items() if shutil.which(program)]


async def sandboxed_runs(address: str, programs: int, alone: int) -> dict[str, Any]:
    """Runs a second of `programs` in one stream, and seconds of each of `alone` programs that run one after the other.

    Raises:
        WrongVerdictError: a verdict is not what it should be; every tenth program is wrong.
    """
    async with AsyncClient(address, timeout_s=None) as client:
        await _streamed(client, _samples("warm", 20))
        began = time.perf_counter()
        await _streamed(client, _samples("run", programs))
        seconds = time.perf_counter() - began
        service: list[float] = []
        for one in _samples("alone", alone):
            (verdict,) = await client.verify([one], "code")
            _check([verdict])
            service.append(verdict.message.provenance.compute_seconds)
    bare = [_bare(number) for number in range(alone)]
    return {
        "programs": programs,
        "runs_per_s": programs / seconds,
        "alone_ms": 1000 * statistics.median(service),
        "bare_ms": 1000 * statistics.median(bare),
        "overhead_ms": 1000 * (statistics.median(service) - statistics.median(bare)),
    }


def server_of(kind: str) -> Any:
    """Context of a server with this sandbox; gives its address."""
    return served(workers=1, sandbox=kind)


async def _streamed(client: AsyncClient, samples: Sequence[pb.Sample]) -> None:
    verdicts = [verdict async for verdict in client.stream_verify(samples, "code")]
    if len(verdicts) != len(samples):
        raise WrongVerdictError(f"{len(verdicts)} verdicts for {len(samples)} programs")
    _check(verdicts)


def _check(verdicts: Sequence[Verdict]) -> None:
    for verdict in verdicts:
        wanted = 0.0 if verdict.sample_id.endswith("0") else 1.0
        if verdict.value != wanted:
            raise WrongVerdictError(f"{verdict.sample_id}: {verdict.value} ({verdict.absence}), expected {wanted:g}")


def _program(name: str, number: int) -> str:
    return f"# {name} {number}\nvalue = int(input())\nprint(value * {number + 2})\n"


def _samples(name: str, count: int) -> list[pb.Sample]:
    """Programs that multiply; those whose number ends with 0 are tested for another product."""
    return [
        sample(
            f"{name}-{number}",
            "",
            f"```python\n{_program(name, number)}```",
            references=[
                json.dumps({"tests": [{"stdin": "7", "stdout": str(7 * (number + 2) + (number % 10 == 0))}], "language": "python"})
            ],
        )
        for number in range(count)
    ]


def _bare(number: int) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-I", "-c", _program("bare", number)], input=b"7", stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began
