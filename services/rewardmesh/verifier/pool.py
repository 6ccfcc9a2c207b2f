"""Checks samples in killable worker processes: who waits, who is next, and what happens to an item that misbehaves.

Every call is a job. Workers take a chunk from the job at the head of the line, which then goes to its end: a small call does not
wait for a large one.
A worker answers item by item, so the pool always knows which item is running:

- over its time limit: the worker is killed, that item gets DEADLINE;
- out of memory: the worker reports it and exits, that item gets INFRASTRUCTURE;
- the worker dies otherwise (killed from outside, segmentation fault): that item is tried once more, then gets INFRASTRUCTURE.

In each case the rest of the chunk goes back to the front of its job, unharmed, and a new worker starts.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import Counter

from rewardmesh.serving.logs import get_logger
from rewardmesh.verifier.process import WorkerDied, WorkerProcess
from rewardmesh.verifier.registry import Options
from rewardmesh.verifier.verdicts import NoVerdict, Reason, SampleFields, Status, Verdict
from rewardmesh.verifier.worker import Chunk

log = get_logger(__name__)

WORKER_ENDS = Counter("rewardmesh_verifier_worker_ends", "Worker processes that ended, by cause.", ["cause"])

CHUNK_ITEMS = 64
CHUNK_CHARACTERS = 2**20
YIELD_AFTER_S = 0.1
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


@dataclass(frozen=True, slots=True)
class Checked:
    """What came of one sample. Seconds: waiting until its worker got it, and computing in the worker."""

    result: Verdict | NoVerdict
    queue_seconds: float = 0.0
    compute_seconds: float = 0.0


@dataclass(eq=False)
class _Job:
    verifier: str
    options: Options
    samples: Sequence[SampleFields]
    deadline: float | None
    arrived: float = field(default_factory=time.monotonic)
    finished: asyncio.Event = field(default_factory=asyncio.Event)
    over: bool = False

    def __post_init__(self) -> None:
        self.pending = deque(range(len(self.samples)))
        self.results: list[Checked | None] = [None] * len(self.samples)
        self.open = len(self.samples)
        self.deaths: dict[int, int] = {}

    def settle(self, index: int, checked: Checked) -> None:
        if self.results[index] is None:
            self.results[index] = checked
            self.open -= 1
            if self.open == 0:
                self.finished.set()


class Pool:
    """A fixed number of worker processes and the line in front of them."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._jobs: set[_Job] = set()
        self._line: deque[_Job] = deque()
        """Jobs with items that no worker holds."""
        self._work = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._workers: dict[int, WorkerProcess] = {}
        self._seconds_an_item = 0.001

    @property
    def waiting(self) -> int:
        """Items that have been accepted and have no result yet."""
        return sum(job.open for job in self._jobs)

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
        waiting = self.waiting
        if waiting + len(samples) > self._limits.max_queue_items:
            raise QueueFull(waiting, min(max(self.estimated_wait_s, 0.1), 10.0))
        job = _Job(verifier, options, samples, None if remaining_s is None else time.monotonic() + remaining_s)
        self._jobs.add(job)
        self._line.append(job)
        self._work.set()
        try:
            async with asyncio.timeout(remaining_s):
                await job.finished.wait()
        except TimeoutError:
            pass
        finally:
            # Also when the caller has gone: what no worker has begun is dropped.
            job.over = True
            job.pending.clear()
            self._jobs.discard(job)
        late = Checked(
            NoVerdict(Reason.DEADLINE, "the call's deadline passed before the item was checked", retryable=True),
            time.monotonic() - job.arrived,
        )
        return [checked or late for checked in job.results]

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
            job, indices = await self._next_chunk()
            usable = await self._check(worker, job, indices)
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
        for job in self._jobs:
            for index in range(len(job.samples)):
                job.settle(index, Checked(NoVerdict(Reason.INFRASTRUCTURE, detail, retryable=True), time.monotonic() - job.arrived))
            job.pending.clear()
        self._line.clear()

    async def _next_chunk(self) -> tuple[_Job, list[int]]:
        while True:
            while self._line:
                job = self._line.popleft()
                indices: list[int] = []
                characters = 0
                # A small call is spread over the workers too.
                most = min(CHUNK_ITEMS, math.ceil(len(job.pending) / self._limits.workers))
                while job.pending and len(indices) < most and characters < CHUNK_CHARACTERS:
                    indices.append(job.pending.popleft())
                    characters += len(job.samples[indices[-1]].completion)
                if job.pending:
                    self._line.append(job)
                if indices:
                    return job, indices
            self._work.clear()
            await self._work.wait()

    def _give_back(self, job: _Job, indices: Iterable[int]) -> None:
        rest = list(indices)
        if job.over or not rest:
            return
        if not job.pending:
            self._line.append(job)
        job.pending.extendleft(reversed(rest))
        self._work.set()

    async def _check(self, worker: WorkerProcess, job: _Job, indices: list[int]) -> bool:
        """Run a chunk on a worker; False when the worker is of no more use. Settles every item or gives it back."""
        loop = asyncio.get_running_loop()
        samples = [job.samples[index] for index in indices]
        taken = time.monotonic()
        limit = self._limits.item_timeout_s
        position = 0

        def waited() -> float:
            return taken - job.arrived

        def item_limit() -> float:
            return limit if job.deadline is None else max(0.0, min(limit, job.deadline - time.monotonic()))

        try:
            async with asyncio.timeout(item_limit()) as timer:
                await worker.send(Chunk(job.verifier, job.options, samples, YIELD_AFTER_S, limit + 1.0))
                for position, index in enumerate(indices):
                    timer.reschedule(loop.time() + item_limit())
                    reply = await worker.receive()
                    if reply[0] == "yield":
                        self._give_back(job, indices[position:])
                        return True
                    checked = _read(reply, waited(), self._limits.memory_limit_bytes)
                    job.settle(index, checked)
                    worker.done += 1
                    self._seconds_an_item += 0.02 * (checked.compute_seconds - self._seconds_an_item)
                    if reply[0] == "memory":
                        WORKER_ENDS.labels("memory").inc()
                        self._give_back(job, indices[position + 1 :])
                        return False
                return True
        except TimeoutError:
            WORKER_ENDS.labels("timeout").inc()
            self._time_out(job, indices[position], waited())
            self._give_back(job, indices[position + 1 :])
        except (WorkerDied, ValueError) as error:
            index = indices[position]
            job.deaths[index] = job.deaths.get(index, 0) + 1
            WORKER_ENDS.labels("died").inc()
            log.warning("worker died", worker=worker.pid, exit_code=worker.exit_code, error=str(error))
            if job.deaths[index] >= ATTEMPTS:
                detail = f"the worker process died {ATTEMPTS} times while it checked this item"
                job.settle(index, Checked(NoVerdict(Reason.INFRASTRUCTURE, detail), waited()))
                position += 1
            self._give_back(job, indices[position:])
        return False

    def _time_out(self, job: _Job, index: int, waited_s: float) -> None:
        limit = self._limits.item_timeout_s
        if job.deadline is not None and time.monotonic() >= job.deadline:
            result = NoVerdict(Reason.DEADLINE, "the call's deadline passed while the item was being checked", retryable=True)
        else:
            result = NoVerdict(Reason.DEADLINE, f"the check took longer than the limit of {limit:g} s")
        job.settle(index, Checked(result, waited_s, limit))


def _read(reply: list[Any], waited_s: float, memory_limit_bytes: int) -> Checked:
    """The result in a worker's reply; raises ValueError when it is malformed."""
    result: Verdict | NoVerdict
    match reply:
        case ["verdict", float(seconds), str(status), float(score), str(evidence), str(extracted), span]:
            start, end, line = span if isinstance(span, list) else (0, 0, 0)
            result = Verdict(Status(status), score, evidence, extracted, (int(start), int(end)) if line else None, int(line))
        case ["none", float(seconds), str(reason), str(detail), bool(retryable)]:
            result = NoVerdict(Reason(reason), detail, retryable)
        case ["memory", float(seconds)]:
            result = NoVerdict(Reason.INFRASTRUCTURE, f"the check needed more memory than the limit of {memory_limit_bytes} bytes")
        case ["error", float(seconds), str(detail), str(trace)]:
            log.error("verifier failed", detail=detail, traceback=trace)
            result = NoVerdict(Reason.INFRASTRUCTURE, detail)
        case _:
            raise ValueError(f"the worker sent a reply of an unknown kind: {reply[0]!r}")
    return Checked(result, waited_s, seconds)
