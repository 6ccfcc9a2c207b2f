"""Workload D: open-loop arrivals at rising rates, up to twice what the server can do, each with a deadline.

A call is one question with four answers. Arrivals are Poisson and do not wait for answers, so the load does not ease when the server
falls behind. Goodput is what was answered within its deadline, counted from the moment the call was due. Refusals are timed from the
moment they were sent. Nothing is retried, and every call has a text of its own.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import math
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import uvloop

from benchmarks.scoring.contender import ContenderError, Item
from benchmarks.scoring.load import gather
from benchmarks.scoring.ours import samples, without_retries
from benchmarks.scoring.settings import Overload
from benchmarks.scoring.statistics import percentile
from rewardmesh.client import AbsenceReason, AsyncClient, CallFailed

CALLERS = 32
"""Calls in flight while the capacity is measured."""


@dataclass
class Tally:
    """What came of the calls of one load. Seconds: of answers since they were due, of refusals since they were sent."""

    outcomes: Counter[str] = field(default_factory=Counter)
    items_in_time: int = 0
    answer_seconds: list[float] = field(default_factory=list)
    refusal_seconds: list[float] = field(default_factory=list)

    def summary(self, load: float, rate: float, seconds: float) -> dict[str, Any]:
        """Figures of a load: `rate` in calls a second."""
        accepted = sum(self.outcomes.values()) - self.outcomes["refused"]
        return {
            "load": load,
            "calls_per_s": rate,
            "calls": sum(self.outcomes.values()),
            **{name: self.outcomes[name] for name in ("in_time", "late", "refused", "failed")},
            "goodput_items_per_s": self.items_in_time / seconds,
            "accepted_in_time": self.outcomes["in_time"] / accepted if accepted else None,
            "answer_p50_s": _or_none(percentile(self.answer_seconds, 0.5)),
            "answer_p99_s": _or_none(percentile(self.answer_seconds, 0.99)),
            "refusal_p99_s": _or_none(percentile(self.refusal_seconds, 0.99)),
        }


def measure_overload(address: str, questions: Sequence[Sequence[Item]], settings: Overload, seed: int = 0) -> dict[str, Any]:
    """Find the capacity, then try each load.

    Args:
        address: of a reward server.
        questions: items of each question; they are used again and again with another beginning.

    Returns:
        {"capacity_calls_per_s", "deadline_s", "loads": one summary a load}.
    """
    gc.freeze()  # a full collection in this process would look like a server that does not answer
    found: dict[str, Any] = uvloop.run(_measure(address, questions, settings, random.Random(seed)))
    return found


async def _measure(address: str, questions: Sequence[Sequence[Item]], settings: Overload, chance: random.Random) -> dict[str, Any]:
    calls = _Calls(questions)
    async with AsyncClient(address, timeout_s=None, channel_options=without_retries()) as client:
        capacity = await _capacity(client, calls, settings.seconds / 2)
        loads = []
        for load in settings.loads:
            tally = await _arrivals(client, calls, capacity * load, settings, chance)
            loads.append(tally.summary(load, capacity * load, settings.seconds))
    return {"capacity_calls_per_s": capacity, "deadline_s": settings.deadline_s, "seconds": settings.seconds, "loads": loads}


class _Calls:
    """Samples of one question after the other, never the same text twice."""

    def __init__(self, questions: Sequence[Sequence[Item]]) -> None:
        self._questions = itertools.cycle(questions)
        self._number = itertools.count()

    def next(self) -> list[Any]:
        number = next(self._number)
        found = samples(next(self._questions), str(number))
        for one in found:
            one.prompt[0].content = f"({number}) {one.prompt[0].content}"
        return found


async def _capacity(client: AsyncClient, calls: _Calls, seconds: float) -> float:
    """Calls a second with always CALLERS of them in flight; what ends after the time is not counted."""
    ends = time.monotonic() + seconds
    done = 0

    async def caller() -> None:
        nonlocal done
        while time.monotonic() < ends:
            scores = await client.score(calls.next(), timeout_s=max(60.0, 10 * seconds))
            if any(score.value is None for score in scores):
                raise ContenderError(f"a score is absent without overload: {scores[0].absence}")
            done += time.monotonic() < ends

    await gather(caller() for _ in range(CALLERS))
    return done / seconds


async def _arrivals(client: AsyncClient, calls: _Calls, rate: float, settings: Overload, chance: random.Random) -> Tally:
    tally = Tally()
    began = due = time.monotonic()
    async with asyncio.TaskGroup() as group:
        while (due := due + chance.expovariate(rate)) < began + settings.seconds:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            group.create_task(_call(client, calls.next(), due, settings.deadline_s, tally))
    return tally


async def _call(client: AsyncClient, asked: list[Any], due: float, deadline_s: float, tally: Tally) -> None:
    sent = time.monotonic()
    try:
        scores = await client.score(asked, timeout_s=max(0.001, due + deadline_s - sent))
    except CallFailed:
        tally.outcomes["failed"] += 1
        return
    now = time.monotonic()
    reasons = {score.absence.reason for score in scores if score.absence is not None}
    if AbsenceReason.OVERLOADED in reasons:
        tally.outcomes["refused"] += 1
        tally.refusal_seconds.append(now - sent)
    elif reasons - {AbsenceReason.DEADLINE}:
        tally.outcomes["failed"] += 1
    elif reasons or now - due > deadline_s:
        tally.outcomes["late"] += 1
    else:
        tally.outcomes["in_time"] += 1
        tally.items_in_time += len(scores)
        tally.answer_seconds.append(now - due)


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
