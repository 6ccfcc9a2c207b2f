"""What an answer that hangs the parser costs the others.

A client sends harmless answers at a steady pace, each in a message of its own, as one stream. Beside it, one hostile answer after the
other is sent in a call of its own, each to its end; between two of them the pace goes on for a while. Measured is how long each harmless
answer waits for its verdict: while nothing else runs, and from the sending of a hostile answer until a second after its end, in which its
worker is replaced.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from rewardmesh.client import AsyncClient, sample
from rewardmesh.v1 import common_pb2 as pb

PACE_S = 0.01
QUIET_S = 3.0
AFTER_S = 6.0
"""A worker takes a second or two to start, several on a busy machine. Without it the next hostile answer would hold the only one left."""
REFERENCE = "\\frac{\\pi}{4}"
RIGHT = "So it is 18.\nA: 18"


async def hang_costs(address: str, hostile: Mapping[str, str], item_limit_s: float) -> dict[str, Any]:
    """Latencies of the harmless, and what came of the hostile. `item_limit_s`: the server's limit of one sample."""
    pace = _Pace()
    async with AsyncClient(address, timeout_s=None) as client, AsyncClient(address, timeout_s=None) as other:
        await other.verify([sample("warm", "", "\\boxed{x^2}", references=["x^2"])], "math")
        running = asyncio.create_task(pace.run(client))
        await asyncio.sleep(1.0)
        quiet_from = time.perf_counter()
        await asyncio.sleep(QUIET_S)
        quiet = pace.between(quiet_from, time.perf_counter())
        settled: list[dict[str, str]] = []
        timed: list[tuple[str, float]] = []
        delays: list[list[float]] = []
        for name, text in hostile.items():
            began = time.perf_counter()
            (verdict,) = await other.verify([sample(name, "", text, references=[REFERENCE])], "math")
            taken = time.perf_counter() - began
            outcome = verdict.absence.reason if verdict.absence else f"{verdict.value:g}"
            await asyncio.sleep(AFTER_S if verdict.absence else 0.1)
            delays.append(pace.between(began, time.perf_counter()))
            settled.append({"name": name, "outcome": outcome})
            timed.append((name, taken))
        pace.stop()
        await running
    beside = [latency for window in delays for latency in window]
    slowest = max(taken for _, taken in timed)
    return {
        "item_limit_s": item_limit_s,
        "hostile": settled,
        "hung": sum(one["outcome"] == "DEADLINE" for one in settled),
        "harmless": len(pace.latencies),
        "harmless_lost": pace.sent - len(pace.latencies) + pace.wrong,
        "quiet_ms": _milliseconds(quiet),
        "beside_ms": _milliseconds(beside),
        "worst_extra_s": max(beside) - statistics.median(quiet),
        "seconds": dict(timed),
        "beside_each_worst_ms": {name: 1000 * max(window, default=0.0) for (name, _), window in zip(timed, delays, strict=True)},
        "longest_hostile_s": slowest,
    }


class _Pace:
    """The steady stream of harmless answers."""

    def __init__(self) -> None:
        self.sent = 0
        self.wrong = 0
        self.latencies: list[tuple[float, float]] = []
        """(when it was sent, seconds until its verdict)."""
        self._began: dict[str, float] = {}
        self._stopped = False

    async def run(self, client: AsyncClient) -> None:
        """Until `stop`, and all verdicts are there."""
        async for verdict in client.stream_verify(self._samples(), "math"):
            now, began = time.perf_counter(), self._began.pop(verdict.sample_id)
            self.latencies.append((began, now - began))
            self.wrong += verdict.value != 1

    async def _samples(self) -> AsyncIterator[pb.Sample]:
        due = time.perf_counter()
        while not self._stopped:
            name = f"harmless-{self.sent}"
            self._began[name] = time.perf_counter()
            self.sent += 1
            yield sample(name, "", RIGHT, references=["18"])
            due += PACE_S
            await asyncio.sleep(max(0.0, due - time.perf_counter()))

    def stop(self) -> None:
        """Send nothing more."""
        self._stopped = True

    def between(self, start: float, end: float) -> list[float]:
        """Latencies, in seconds, of what was sent then and has been answered."""
        return [latency for began, latency in self.latencies if start <= began < end]


def _milliseconds(latencies: list[float]) -> dict[str, float]:
    ordered = sorted(latencies)
    return {
        "median": 1000 * statistics.median(ordered),
        "p99": 1000 * ordered[int(0.99 * (len(ordered) - 1))],
        "worst": 1000 * ordered[-1],
    }
