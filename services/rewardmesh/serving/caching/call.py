"""One attempt of a call to get its items: what it launched, what it joined, and what it gets out of it by its own deadline."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from rewardmesh.serving.batching import Done
from rewardmesh.serving.caching.flights import Flight
from rewardmesh.serving.errors import CallError
from rewardmesh.serving.validation import absence
from rewardmesh.v1 import common_pb2 as pb

P = TypeVar("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Call(Generic[P, R]):
    """What a call waits for.

    Attributes:
        priority, tenant: as `Batcher.submit` takes them.
        deadline: monotonic seconds, `math.inf` for none.
        launched: flights that it started, with the item that each is for.
        awaited: flights that it waits for, with all its items that they answer.
        joined: those of them that others had started.
    """

    priority: int
    deadline: float
    tenant: str
    launched: dict[Flight[P, R], int] = field(default_factory=dict)
    awaited: dict[Flight[P, R], list[int]] = field(default_factory=dict)
    joined: list[Flight[P, R]] = field(default_factory=list)

    async def settled(self) -> None:
        """Wait until all flights have landed or the deadline has passed; cancelling this cancels none of them."""
        results = [flight.result for flight in self.awaited]
        if results:
            left = None if self.deadline == math.inf else max(self.deadline - time.monotonic(), 0.0)
            await asyncio.wait(results, timeout=left)

    def collect(self, answers: dict[int, Done[R]], waited: float) -> list[int]:
        """Take what has landed into `answers`; returns the items whose launcher was refused or too late: they try again by themselves.

        Args:
            answers: item -> what came of it.
            waited: seconds since the call began.

        Raises:
            CallError: what this call launched was refused.
        """
        again: list[int] = []
        for flight, indices in self.awaited.items():
            if not flight.result.done():
                late = absence(pb.ABSENCE_REASON_DEADLINE, "the deadline passed before it was computed", retryable=True)
                answers.update((index, Done(None, late, waited)) for index in indices)
                continue
            error = flight.result.exception()
            if error is not None:
                if flight in self.launched or not isinstance(error, CallError):
                    raise error
                again += indices
                continue
            done = flight.result.result()
            if flight not in self.launched and _expired(done) and time.monotonic() < self.deadline:
                again += indices  # it had expired just before this call joined
                continue
            for index in indices:
                answers[index] = done if self.launched.get(flight) == index else _followed(done, waited)
        return again


def _expired(done: Done[R]) -> bool:
    return done.absence is not None and done.absence.reason == pb.ABSENCE_REASON_DEADLINE


def _followed(done: Done[R], waited: float) -> Done[R]:
    """What a call gets that did not launch the computation itself."""
    waiting = max(waited - done.compute_seconds, 0.0)
    return replace(done, queue_seconds=waiting, tokens_computed=0, cached=done.result is not None)
