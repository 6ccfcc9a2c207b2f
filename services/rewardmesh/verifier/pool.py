"""Checks samples in killable worker processes, and what happens to an item that misbehaves.

Workers take a chunk of items each from the line (see `line`). A worker answers item by item (its answers are read many at once), so the
pool always knows which item is running:

- over its time limit: the worker is killed, that item gets DEADLINE (or FAIL, where the options say so);
- out of memory: the worker reports it and exits, that item gets INFRASTRUCTURE (or FAIL);
- the worker dies otherwise (killed from outside, segmentation fault): that item is tried once more, then gets INFRASTRUCTURE.

In each case the rest of the chunk goes back to the front of its job, unharmed, and a new worker starts. So does what lies behind an item
that takes long: another worker may be free. Should two workers check the same item then, the first result counts.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

from prometheus_client import Counter

from rewardmesh.serving.logs import get_logger
from rewardmesh.verifier.jobs import Item, Job
from rewardmesh.verifier.line import Line
from rewardmesh.verifier.loading import LOADING_S
from rewardmesh.verifier.process import WorkerDied, WorkerProcess
from rewardmesh.verifier.verdicts import Checked, NoVerdict, Reason, Status, StepVerdict, Verdict
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


@dataclass(frozen=True)
class Limits:
    """What the pool allows."""

    workers: int
    item_timeout_s: float
    memory_limit_bytes: int
    max_queue_items: int
    recycle_after_items: int
    packages: tuple[str, ...] = ()


class Pool(Line):
    """A fixed number of worker processes and the line in front of them."""

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits.workers, limits.max_queue_items)
        self._limits = limits
        self._tasks: list[asyncio.Task[None]] = []
        self._workers: dict[int, WorkerProcess] = {}

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
            job, items = await self._next(CHUNK_ITEMS, CHUNK_CHARACTERS)
            if worker.exit_code is not None:
                # Killed while it had nothing to do: no item's fault.
                WORKER_ENDS.labels("died").inc()
                self._give_back(job, items)
                await self._replace(number)
                continue
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

    async def _check(self, worker: WorkerProcess, job: Job, items: list[Item]) -> bool:
        """Run a chunk on a worker; False when the worker is of no more use. Settles every item or gives it back."""
        taken = time.monotonic()
        position, kept = 0, len(items)
        """The item that is running, and the end of those that have not been given back."""
        loading = False
        try:
            async with asyncio.timeout(self._item_limit(job)):
                await worker.send(Chunk(job.verifier, job.options, [item.sample for item in items], YIELD_AFTER_S, self._kernel_limit_s))
            while position < len(items):
                limit = self._item_limit(job, loading=loading)
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
                    loading = reply[0] == "loading"
                    if reply[0] in {"loading", "loaded"}:
                        continue
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

    def _item_limit(self, job: Job, *, loading: bool = False) -> float:
        limit = LOADING_S if loading else self._limits.item_timeout_s
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
            case ["verdict" | "none", float(seconds), *told]:
                result = _result(told)
            case ["group", float(seconds), [list(first), *more]]:
                result = _result(first)
                return Checked(result, waited_s, seconds, (result, *map(_result, more)))
            case ["memory", float(seconds)]:
                detail = f"the check needed more memory than the limit of {self._limits.memory_limit_bytes} bytes"
                result = job.beyond_limit(NoVerdict(Reason.INFRASTRUCTURE, detail))
            case ["error", float(seconds), str(detail), str(trace)]:
                log.error("verifier failed", detail=detail, traceback=trace)
                result = NoVerdict(Reason.INFRASTRUCTURE, detail)
            case _:
                raise ValueError(f"the worker sent a reply of an unknown kind: {reply[0]!r}")
        return Checked(result, waited_s, seconds)


def _result(told: list[Any]) -> Verdict | NoVerdict:
    """A worker's words on one sample; raises ValueError when they are malformed."""
    match told:
        case [str(status), float(score), str(evidence), str(extracted), span, list(steps), str(category)]:
            start, end, line = span if isinstance(span, list) else (0, 0, 0)
            where = (int(start), int(end)) if line else None
            parts = tuple(StepVerdict(int(step), Status(kind), float(part), str(text)) for step, kind, part, text in steps)
            return Verdict(Status(status), score, evidence, extracted, where, int(line), parts, category)
        case [str(reason), str(detail), bool(retryable)]:
            return NoVerdict(Reason(reason), detail, retryable)
    raise ValueError(f"the worker sent a result that is none: {told!r:.200}")
