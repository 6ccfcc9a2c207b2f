"""The line in front of those who check: jobs that wait, whose turn it is, and when there is no more room.

Every call is a job. Whoever is free takes a few items from the job at the head of the line, which then goes to its end: a small call does
not wait for a large one. `pool.Pool` (worker processes) and `crew.SandboxCrew` (sandboxes) are lines with hands.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from rewardmesh.verifier.jobs import Item, Job
from rewardmesh.verifier.registry import Options
from rewardmesh.verifier.verdicts import Checked, NoVerdict, Reason, Work


class QueueFull(Exception):
    """More items wait than allowed."""

    def __init__(self, waiting: int, retry_after_s: float) -> None:
        super().__init__(f"{waiting} items are waiting")
        self.waiting = waiting
        self.retry_after_s = retry_after_s


class Line:
    """Jobs that wait for `hands` hands, at most `max_queue_items` items of them."""

    def __init__(self, hands: int, max_queue_items: int) -> None:
        self._hands = hands
        self._max_queue_items = max_queue_items
        self._jobs: set[Job] = set()
        self._line: deque[Job] = deque()
        """Jobs with items that nobody holds."""
        self._work = asyncio.Event()
        self._wanting_room: set[Callable[[], None]] = set()
        self._seconds_an_item = 0.001

    @property
    def waiting(self) -> int:
        """Items that have been accepted and have no result yet."""
        return sum(len(job.open) for job in self._jobs)

    @property
    def room(self) -> int:
        """Items that would still be accepted."""
        return self._max_queue_items - self.waiting

    @property
    def estimated_wait_s(self) -> float:
        """Seconds until an item that came now would be checked."""
        return self.waiting * self._seconds_an_item / self._hands

    async def run(self, verifier: str, options: Options, samples: Sequence[Work], remaining_s: float | None) -> list[Checked]:
        """Check the samples; one result each, in order.

        Args:
            verifier: its name.
            options: its options, validated.
            samples: what to check.
            remaining_s: seconds until the results are of no more use; None for no limit. Items that are not settled by then get DEADLINE.

        Raises:
            QueueFull: nothing was scheduled.
        """
        if not samples:
            return []
        finished = asyncio.Event()
        job = self.open(verifier, options, remaining_s, lambda: None if job.open else finished.set())
        try:
            items = self.add(job, [((), sample) for sample in samples])
            async with asyncio.timeout(remaining_s):
                await finished.wait()
        except TimeoutError:
            job.expire()
        finally:
            self.end(job)
        return [item.checked for item in items if item.checked is not None]

    def open(self, verifier: str, options: Options, remaining_s: float | None, changed: Callable[[], None]) -> Job:
        """A job without items yet; `changed` is called after each item that is settled. `end` it in every case."""
        job = Job(verifier, options, None if remaining_s is None else time.monotonic() + remaining_s, changed)
        self._jobs.add(job)
        return job

    def add(self, job: Job, samples: Sequence[tuple[tuple[str, ...], Work]]) -> list[Item]:
        """Schedule samples or groups (each with keys of the caller's) as a part of a job; raises QueueFull, with none of them scheduled."""
        waiting = self.waiting
        if waiting + len(samples) > self._max_queue_items:
            raise QueueFull(waiting, min(max(self.estimated_wait_s, 0.1), 10.0))
        if samples and not job.pending:
            self._line.append(job)
        items = job.add(samples)
        self._work.set()
        return items

    def end(self, job: Job) -> None:
        """Nobody waits for the job any more: what nobody has begun is dropped. Safe to call twice."""
        job.over = True
        job.pending.clear()
        self._jobs.discard(job)
        self._tell_of_room()

    def tell_of_room(self, when: Callable[[], None]) -> None:
        """Call `when` once, as soon as an item has left the queue."""
        self._wanting_room.add(when)

    def _fail_all(self, detail: str) -> None:
        for job in list(self._jobs):
            job.settle_all(NoVerdict(Reason.INFRASTRUCTURE, detail, retryable=True))
        self._line.clear()
        self._tell_of_room()

    def _tell_of_room(self) -> None:
        wanting, self._wanting_room = self._wanting_room, set()
        for tell in wanting:
            tell()

    async def _next(self, most: int, most_characters: int) -> tuple[Job, list[Item]]:
        """At most so many items of the job that is next, at least one."""
        while True:
            while self._line:
                job = self._line.popleft()
                items: list[Item] = []
                characters = 0
                # A small call is spread over all hands too.
                share = min(most, math.ceil(len(job.pending) / self._hands))
                while job.pending and len(items) < share and characters < most_characters:
                    item = job.pending.popleft()
                    if item in job.open:
                        items.append(item)
                        characters += item.sample.characters
                if job.pending:
                    self._line.append(job)
                if items:
                    return job, items
            self._work.clear()
            await self._work.wait()

    def _give_back(self, job: Job, items: Iterable[Item]) -> None:
        rest = [item for item in items if item in job.open]
        if job.over or not rest:
            return
        if not job.pending:
            self._line.append(job)
        job.pending.extendleft(reversed(rest))
        self._work.set()
