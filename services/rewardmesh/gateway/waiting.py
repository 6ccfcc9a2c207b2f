"""One signal for one group: its share of the deadline, and the retries of a signal that the program waits for.

Only retryable absences of a `wait` signal are asked again, with exponential backoff (or the backend's own retry_after), as long as the
share lasts and the program still needs them. All other policies take the first answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rewardmesh.gateway.asking import Asker, Metadata, Question, Reading, retryable
from rewardmesh.serving.validation import absence
from rewardmesh.v1 import common_pb2 as pb

_FIRST_BACKOFF_S = 0.05
_LONGEST_BACKOFF_S = 2.0


@dataclass(frozen=True)
class Asked:
    """What came of a signal's questions, in order, and seconds in all."""

    readings: list[Reading]
    wait_seconds: float


def share_s(remaining_s: float, timeout_s: float | None) -> float:
    """Seconds a signal may take: what is left of the caller's deadline, less a reserve to compose and send the reply (5 %, at most 1 s)."""
    share = remaining_s - min(0.05 * remaining_s, 1.0)
    return share if timeout_s is None else min(share, timeout_s)


async def ask_signal(
    asker: Asker[Any, Any],
    questions: Sequence[Question],
    *,
    pin: pb.ModelRef | None,
    budget_s: float,
    retry: bool,
    needed: Callable[[list[Reading]], bool],
    metadata: Metadata,
) -> Asked:
    """Ask until everything is answered, nothing more can be had, or the budget is used.

    Args:
        budget_s: seconds in all.
        retry: whether retryable absences are asked again.
        needed: whether, given the readings so far, the program still needs what is absent.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    deadline = began + budget_s
    late = absence(pb.ABSENCE_REASON_DEADLINE, f"no time was left to ask backend {asker.backend.name!r}", retryable=True)
    readings = [Reading(late)] * len(questions)
    pending = list(range(len(questions)))
    backoff_s = _FIRST_BACKOFF_S
    while pending and deadline > loop.time():
        got = await asker.ask([questions[index] for index in pending], pin, deadline - loop.time(), metadata)
        for index, reading in zip(pending, got, strict=True):
            readings[index] = replace(reading, attempts=readings[index].attempts + 1)
        readings = one_version(readings)
        pending = [index for index, reading in enumerate(readings) if retryable(reading)]
        delay_s = max([backoff_s, *(_retry_after_s(readings[index]) for index in pending)])
        if not retry or not pending or loop.time() + delay_s >= deadline or not needed(readings):
            break
        await asyncio.sleep(delay_s)
        backoff_s = min(2 * backoff_s, _LONGEST_BACKOFF_S)
    return Asked(readings, loop.time() - began)


def one_version(readings: Sequence[Reading]) -> list[Reading]:
    """Never mix versions in a group: where several answered, those of all but the newest become retryable absences."""
    versions = {reading.version for reading in readings if reading.version is not None and isinstance(reading.value, float)}
    if len(versions) < 2:
        return list(readings)
    newest = max(versions, key=lambda version: version[1])
    return [
        reading
        if reading.version == newest or reading.version is None or isinstance(reading.value, pb.Absence)
        else replace(
            reading,
            value=absence(
                pb.ABSENCE_REASON_INFRASTRUCTURE,
                f"version {reading.version[1]} answered, version {newest[1]} answered others of the group",
                retryable=True,
            ),
        )
        for reading in readings
    ]


def _retry_after_s(reading: Reading) -> float:
    return reading.value.retry_after.ToNanoseconds() / 1e9 if isinstance(reading.value, pb.Absence) else 0.0
