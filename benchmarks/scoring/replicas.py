"""Three replicas, one of which dies (SIGKILL) or freezes (SIGSTOP) under load: attempts for a call, and whether callers notice.

Attempts are the client's own count. Several callers call at a steady rate; the fault comes after a third of the time, and only what
follows it is counted.
"""

from __future__ import annotations

import asyncio
import itertools
import signal
import time
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import uvloop

from benchmarks.scoring.contender import Item, Setup
from benchmarks.scoring.ours import Ours, samples
from benchmarks.scoring.statistics import percentile
from rewardmesh.client import AsyncClient, CallFailed

REPLICAS = 3
CALLERS = 4
PAUSE_S = 0.04
TIMEOUT_S = 10.0
FAULTS = {"dead": signal.SIGKILL, "frozen": signal.SIGSTOP}


def measure_replicas(setup: Setup, items: list[Item], seconds: float) -> dict[str, Any]:
    """Figures of each fault: {"dead": {...}, "frozen": {...}} with calls, attempts, amplification, failed calls and the slowest answer.

    Args:
        items: what every call asks for, each time with another beginning.
        seconds: how long calls are made.
    """
    return {fault: _with_fault(setup, items, seconds, number) for fault, number in FAULTS.items()}


def _with_fault(setup: Setup, items: list[Item], seconds: float, number: signal.Signals) -> dict[str, Any]:
    with ExitStack() as stack:
        replicas = [Ours(name=f"replica-{place}") for place in range(REPLICAS)]
        for replica in replicas:
            stack.callback(replica.stop)
            replica.start(replace(setup, threads=1), {})
        frozen = replicas[0].process
        if number == signal.SIGSTOP:
            stack.callback(frozen.signal, signal.SIGCONT)  # before it is stopped
        target = ",".join(replica.address for replica in replicas)
        found: dict[str, Any] = uvloop.run(_calls(target, items, seconds, lambda: frozen.signal(number)))
        return found


async def _calls(target: str, items: list[Item], seconds: float, fault: Any) -> dict[str, Any]:
    numbers = itertools.count()
    began = time.monotonic()
    struck: list[float] = []
    failed: list[str] = []
    taken: list[float] = []

    async with AsyncClient(target, timeout_s=TIMEOUT_S) as client:

        async def caller() -> None:
            while time.monotonic() - began < seconds:
                asked = samples(items, str(number := next(numbers)))
                for one in asked:
                    one.prompt[0].content = f"({number}) {one.prompt[0].content}"
                sent = time.monotonic()
                try:
                    scores = await client.score(asked)
                    failed.extend(str(score.absence) for score in scores[:1] if score.value is None)
                except CallFailed as error:
                    failed.append(str(error))
                if struck:
                    taken.append(time.monotonic() - sent)
                await asyncio.sleep(PAUSE_S)

        async def strike() -> Any:
            await asyncio.sleep(seconds / 3)
            before = client.statistics()
            fault()
            struck.append(time.monotonic())
            return before

        async with asyncio.TaskGroup() as group:
            for _ in range(CALLERS):
                group.create_task(caller())
            striking = group.create_task(strike())
        before, after = striking.result(), client.statistics()
    calls, attempts = after.calls - before.calls, after.attempts - before.attempts
    return {
        "calls": calls,
        "attempts": attempts,
        "amplification": attempts / calls,
        "failed": len(failed),
        "failures": failed[:3],
        "retries": after.retries - before.retries,
        "hedges": after.hedges - before.hedges,
        "ejections": after.ejections - before.ejections,
        "slowest_s": max(taken),
        "p99_s": percentile(taken, 0.99),
    }
