"""Measures sandboxes on this machine: what a run costs beside the program, and how many run in a second.

python -m rewardmesh.verifier.sandbox.measure --runtime bubblewrap --runs 100 --slots 2
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from dataclasses import asdict, dataclass

from rewardmesh.verifier.sandbox import programs
from rewardmesh.verifier.sandbox.limits import Ending, Limits
from rewardmesh.verifier.sandbox.sandboxes import SandboxConfig, Sandboxes, open_sandboxes

_PROGRAM = "print(int(input()) * 2)"
_PAUSE_S = 0.2
"""Between single runs, so that a used box has been replaced: warm means warm."""


@dataclass(frozen=True)
class Figures:
    """What was measured."""

    runtime: str
    runs: int
    overhead_median_s: float
    """From the request for a warm sandbox to the answer, less the time from fork to end of the program."""
    overhead_p95_s: float
    runs_a_second: float
    """With all slots busy, each run in a sandbox of its own."""


async def measure(sandboxes: Sandboxes, runs: int, slots: int) -> Figures:
    """Run a small Python program `runs` times alone and `runs` times with `slots` at once. Raises SandboxError."""

    async def one() -> float:
        began = time.monotonic()
        async with sandboxes.box() as box:
            run = await programs.script(box, _PROGRAM, b"21", Limits())
            seconds = time.monotonic() - began - run.wall_s
        if run.ending is not Ending.EXIT or run.stdout != b"42\n":
            raise RuntimeError(f"the program ended otherwise than it should: {run}")
        return seconds

    overheads = []
    await one()
    for _ in range(runs):
        await asyncio.sleep(_PAUSE_S)
        overheads.append(await one())
    gate = asyncio.Semaphore(slots)

    async def gated() -> None:
        async with gate:
            await one()

    began = time.monotonic()
    await asyncio.gather(*(gated() for _ in range(runs)))
    seconds = time.monotonic() - began
    overheads.sort()
    p95 = overheads[min(len(overheads) - 1, int(0.95 * len(overheads)))]
    return Figures(sandboxes.name, runs, statistics.median(overheads), p95, runs / seconds)


async def _main() -> None:
    parser = argparse.ArgumentParser(description="Measure sandboxes on this machine.")
    parser.add_argument("--runtime", choices=("auto", "bubblewrap", "gvisor", "unsandboxed"), default="auto")
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--slots", type=int, default=2)
    given = parser.parse_args()
    sandboxes = await open_sandboxes(SandboxConfig(wanted=given.runtime, stock=2 * given.slots))
    try:
        print(json.dumps(asdict(await measure(sandboxes, given.runs, given.slots)), indent=2))
    finally:
        await sandboxes.close()


if __name__ == "__main__":
    asyncio.run(_main())
