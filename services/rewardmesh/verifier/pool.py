"""Checks samples in killable worker processes: who waits, who is next, and what happens to an item that misbehaves.

Every call is a job. Workers take a chunk from the job at the head of the line, which then goes to its end: a small call does not
wait for a large one.
A worker answers item by item (its answers are read many at once), so the pool always knows which item is running:

- over its time limit: the worker is killed, that item gets DEADLINE (or FAIL, where the options say so);
- out of memory: the worker reports it and exits, that item gets INFRASTRUCTURE (or FAIL);
- the worker dies otherwise (killed from outside, segmentation fault): that item is tried once more, then gets INFRASTRUCTURE.

In each case the rest of the chunk goes back to the front of its job, unharmed, and a new worker starts. So does what lies behind an item
that takes long: another worker may be free. Should two workers check the same item then, the first result counts.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from prometheus_client import Counter

from rewardmesh.serving.logs import get_logger
from rewardmesh.verifier.jobs import Item, Job
from rewardmesh.verifier.process import WorkerDied, WorkerProcess
from rewardmesh.verifier.registry import Options
from rewardmesh.verifier.verdicts import Checked, NoVerdict, Reason, SampleFields, Status, Verdict
from rewardmesh.verifier.worker import Chunk

log = get_logger(__name__)

WORKER_ENDS = Counter("rewardmesh_verifier_worker_ends", "Worker processes that ended, by cause.", ["cause"])

CHUNK_ITEMS = 64
CHUNK_CHARACTERS = 2**20
YIELD_AFTER_S = 0.1
SILENCE_S = 0.15
"""Without an answer for so long, a worker will begin no further item of its chunk: it yields after YIELD_AFTER_S."""
START_TIMEOUT_S = 60.0
MOST_RESTART_FAILURES = 3
ATTEMPTS = 2
"""How often an item may be running when its worker dies for no known reason."""


class QueueFull(Exception):
    """More items wait than allowed."""

    def __init__(self, waiting: int, retry_after_s: float) -> None:
        super().__init__(f"{waiting} items are waiting")
        self.waiting = waiting
        self.retry_after_s = retry_after_s


@dataclass(frozen=True)
class Limits:
    """What the pool allows."""

    workers: int
    item_timeout_s: float
    memory_limit_bytes: int
    max_queue_items: int
    recycle_after_items: int
    packages: tuple[str, ...] = ()


class Pool:
    """A fixed number of worker processes and the line in front of them."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._jobs: set[Job] = set()
        self._line: deque[Job] = deque()
        """Jobs with items that no worker holds."""
        self._work = asyncio.Event()
        self._wanting_room: set[Callable[[], None]] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._workers: dict[int, WorkerProcess] = {}
        self._seconds_an_item = 0.001

    @property
    def waiting(self) -> int:
        """Items that have been accepted and have no result yet."""
        return sum(len(job.open) for job in self._jobs)

    @property
    def room(self) -> int:
        """Items that would still be accepted."""
        return self._limits.max_queue_items - self.waiting

    @property
    def estimated_wait_s(self) -> float:
        """Seconds until an item that came now would be checked."""
        return self.waiting * self._seconds_an_item / self._limits.workers

    @property
    def worker_pids(self) -> list[int]:
        """Process ids of the live workers."""
        return [worker.pid for worker in self._workers.values()]

    async def start(self) -> None:
        """Start the workers; returns when all are ready. Raises WorkerDied when one cannot start."""
        starts = [self._start_worker() for _ in range(self._limits.workers)]
        started = await asyncio.gather(*starts, return_exceptions=True)
        workers = [worker for worker in started if isinstance(worker, WorkerProcess)]
        failures = [failure for failure in started if isinstance(failure, BaseException)]
        if failures:
            await asyncio.gather(*(worker.kill() for worker in workers))
            raise failures[0]
        for number, worker in enumerate(workers):
            self._workers[number] = worker
            self._tasks.append(asyncio.create_task(self._serve(number), name=f"verifier-worker-{number}"))

    async def run(self, verifier: str, options: Options, samples: Sequence[SampleFields], remaining_s: float | None) -> list[Checked]:
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
            items = self.add(job, [("", sample) for sample in samples])
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

    def add(self, job: Job, samples: Sequence[tuple[str, SampleFields]]) -> list[Item]:
        """Schedule samples (each with a key of the caller's) as a part of a job; raises QueueFull, with none of them scheduled."""
        waiting = self.waiting
        if waiting + len(samples) > self._limits.max_queue_items:
            raise QueueFull(waiting, min(max(self.estimated_wait_s, 0.1), 10.0))
        if samples and not job.pending:
            self._line.append(job)
        items = job.add(samples)
        self._work.set()
        return items

    def end(self, job: Job) -> None:
        """Nobody waits for the job any more: what no worker has begun is dropped. Safe to call twice."""
        job.over = True
        job.pending.clear()
        self._jobs.discard(job)
        self._tell_of_room()

    def tell_of_room(self, when: Callable[[], None]) -> None:
        """Call `when` once, as soon as an item has left the queue."""
        self._wanting_room.add(when)

    async def close(self) -> None:
        """Kill the workers; unfinished items get INFRASTRUCTURE. Safe to call twice."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        await asyncio.gather(*(worker.kill() for worker in self._workers.values()))
        self._workers.clear()
        self._fail_all("the server stopped before the item was checked")

    async def _start_worker(self) -> WorkerProcess:
        return await WorkerProcess.start(self._limits.memory_limit_bytes, self._limits.packages, START_TIMEOUT_S)

    async def _serve(self, number: int) -> None:
        """One worker's life, and its successors'."""
        while True:
            worker = self._workers[number]
            job, items = await self._next_chunk()
            usable = await self._check(worker, job, items)
            if usable and worker.done >= self._limits.recycle_after_items:
                WORKER_ENDS.labels("recycled").inc()
                usable = False
            if not usable:
                await self._replace(number)

    async def _replace(self, number: int) -> None:
        await self._workers[number].kill()
        del self._workers[number]
        failures = 0
        while number not in self._workers:
            try:
                self._workers[number] = await self._start_worker()
            except (WorkerDied, OSError) as error:
                failures += 1
                log.error("worker cannot start", error=str(error), failures=failures)
                if failures >= MOST_RESTART_FAILURES and not self._workers:
                    self._fail_all(f"no worker process can be started: {error}")
                await asyncio.sleep(min(0.1 * 2**failures, 5.0))

    def _fail_all(self, detail: str) -> None:
        for job in list(self._jobs):
            job.settle_all(NoVerdict(Reason.INFRASTRUCTURE, detail, retryable=True))
        self._line.clear()
        self._tell_of_room()

    def _tell_of_room(self) -> None:
        wanting, self._wanting_room = self._wanting_room, set()
        for tell in wanting:
            tell()

    async def _next_chunk(self) -> tuple[Job, list[Item]]:
        while True:
            while self._line:
                job = self._line.popleft()
                items: list[Item] = []
                characters = 0
                # A small call is spread over the workers too.
                most = min(CHUNK_ITEMS, math.ceil(len(job.pending) / self._limits.workers))
                while job.pending and len(items) < most and characters < CHUNK_CHARACTERS:
                    item = job.pending.popleft()
                    if item in job.open:
                        items.append(item)
                        characters += len(item.sample.completion)
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

    async def _check(self, worker: WorkerProcess, job: Job, items: list[Item]) -> bool:
        """Run a chunk on a worker; False when the worker is of no more use. Settles every item or gives it back."""
        taken = time.monotonic()
        position, kept = 0, len(items)
        """The item that is running, and the end of those that have not been given back."""
        try:
            async with asyncio.timeout(self._item_limit(job)):
                await worker.send(Chunk(job.verifier, job.options, [item.sample for item in items], YIELD_AFTER_S, self._kernel_limit_s))
            while position < len(items):
                limit = self._item_limit(job)
                try:
                    async with asyncio.timeout(min(limit, SILENCE_S)):
                        replies = await worker.receive()
                except TimeoutError:
                    if limit <= SILENCE_S:
                        raise
                    self._give_back(job, items[position + 1 : kept])
                    kept = min(kept, position + 1)
                    async with asyncio.timeout(limit - SILENCE_S):
                        replies = await worker.receive()
                for reply in replies:
                    if reply[0] == "yield":
                        self._give_back(job, items[position:kept])
                        return True
                    if position == len(items):
                        raise WorkerDied("the worker sent more replies than it had samples")
                    checked = self._read(reply, job, taken - items[position].arrived)
                    job.settle(items[position], checked)
                    position += 1
                    worker.done += 1
                    self._seconds_an_item += 0.02 * (checked.compute_seconds - self._seconds_an_item)
                    if reply[0] == "memory":
                        WORKER_ENDS.labels("memory").inc()
                        self._give_back(job, items[position:kept])
                        return False
                self._tell_of_room()
            return True
        except TimeoutError:
            WORKER_ENDS.labels("timeout").inc()
            job.settle(items[position], self._timed_out(job, taken - items[position].arrived))
            self._give_back(job, items[position + 1 : kept])
        except (WorkerDied, ValueError) as error:
            WORKER_ENDS.labels("died").inc()
            log.warning("worker died", worker=worker.pid, exit_code=worker.exit_code, error=str(error))
            if position < len(items):
                item = items[position]
                item.deaths += 1
                if item.deaths >= ATTEMPTS:
                    detail = f"the worker process died {ATTEMPTS} times while it checked this item"
                    job.settle(item, Checked(NoVerdict(Reason.INFRASTRUCTURE, detail), taken - item.arrived))
                self._give_back(job, items[position:kept])
        finally:
            self._tell_of_room()
        return False

    @property
    def _kernel_limit_s(self) -> float:
        return self._limits.item_timeout_s + 1.0

    def _item_limit(self, job: Job) -> float:
        limit = self._limits.item_timeout_s
        return limit if job.deadline is None else max(0.0, min(limit, job.deadline - time.monotonic()))

    def _timed_out(self, job: Job, waited_s: float) -> Checked:
        limit = self._limits.item_timeout_s
        if job.expired:
            result = NoVerdict(Reason.DEADLINE, "the call's deadline passed while the item was being checked", retryable=True)
            return Checked(result, waited_s, limit)
        return Checked(
            job.beyond_limit(NoVerdict(Reason.DEADLINE, f"the check took longer than the limit of {limit:g} s")), waited_s, limit
        )

    def _read(self, reply: list[Any], job: Job, waited_s: float) -> Checked:
        """The result in a worker's reply; raises ValueError when it is malformed."""
        result: Verdict | NoVerdict
        match reply:
            case ["verdict", float(seconds), str(status), float(score), str(evidence), str(extracted), span]:
                start, end, line = span if isinstance(span, list) else (0, 0, 0)
                result = Verdict(Status(status), score, evidence, extracted, (int(start), int(end)) if line else None, int(line))
            case ["none", float(seconds), str(reason), str(detail), bool(retryable)]:
                result = NoVerdict(Reason(reason), detail, retryable)
            case ["memory", float(seconds)]:
                detail = f"the check needed more memory than the limit of {self._limits.memory_limit_bytes} bytes"
                result = job.beyond_limit(NoVerdict(Reason.INFRASTRUCTURE, detail))
            case ["error", float(seconds), str(detail), str(trace)]:
                log.error("verifier failed", detail=detail, traceback=trace)
                result = NoVerdict(Reason.INFRASTRUCTURE, detail)
            case _:
                raise ValueError(f"the worker sent a reply of an unknown kind: {reply[0]!r}")
        return Checked(result, waited_s, seconds)
