"""The whole batching policy, in one place: who waits, who is refused, what is computed together.

The batcher *pulls*: a batch is formed only when the worker is free, out of whatever waits then, so an idle server adds no delay.
Order: priority, then deadline, then arrival. A batch holds one lane (one model version), is cut by token budget, and takes the
items of a group (one prompt) together so that the engine can share the prompt. Entries whose caller has gone or whose deadline
has passed are dropped before they cost compute. With `batch_invariant` every group is a batch of its own, so that a score can
never depend on what else was waiting: replays are equal to the bit, at some cost in throughput.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import grpc

from rewardmesh.serving import metrics
from rewardmesh.serving.errors import CallError, overloaded
from rewardmesh.serving.logs import get_logger
from rewardmesh.serving.validation import absence
from rewardmesh.v1 import common_pb2 as pb

log = get_logger(__name__)

P = TypeVar("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Work(Generic[P]):
    """One item to compute.

    Attributes:
        payload: what the engine gets.
        lane: only items of one lane are computed together (the model version).
        group: items of one group are kept together (the shared prompt).
        tokens: tokens the item holds.
        shared_tokens: how many of them it shares with every other item of its group.
    """

    payload: P
    lane: Hashable
    group: Hashable
    tokens: int
    shared_tokens: int = 0


@dataclass(frozen=True)
class Done(Generic[R]):
    """What came of one item: a result, or the absence that stands for it.

    Attributes:
        queue_seconds, compute_seconds: how long it waited, and how long its batch took.
        tokens_computed: tokens really computed for it, after sharing.
    """

    result: R | None
    absence: pb.Absence | None
    queue_seconds: float = 0.0
    compute_seconds: float = 0.0
    tokens_computed: int = 0


@dataclass(eq=False)
class _Entry(Generic[P, R]):
    work: Work[P]
    unit: Hashable
    order: tuple[int, float, int]
    deadline: float
    arrived: float
    future: asyncio.Future[Done[R]] = field(repr=False)


class Batcher(Generic[P, R]):
    """A bounded queue in front of one worker thread that owns the model.

    Args:
        compute: runs on the worker thread: (lane, payloads) -> one (result, tokens really computed) a payload.
        service: label of the metrics.
        budget_tokens: most tokens really computed in a batch (a single larger item is computed alone).
        max_queue_tokens: more waiting than this is refused with RESOURCE_EXHAUSTED.
        batch_invariant: every group of a call is a batch of its own.
    """

    def __init__(
        self,
        compute: Callable[[Hashable, Sequence[P]], Sequence[tuple[R, int]]],
        *,
        service: str,
        budget_tokens: int,
        max_queue_tokens: int,
        batch_invariant: bool = False,
    ) -> None:
        self._compute = compute
        self._service = service
        self._budget = budget_tokens
        self._limit = max_queue_tokens
        self._invariant = batch_invariant
        self._waiting: list[_Entry[P, R]] = []
        self._computing: list[_Entry[P, R]] = []
        self._queued_tokens = 0
        self._seconds_per_token = 0.0
        self._wake = asyncio.Event()
        self._calls = itertools.count()
        self._arrivals = itertools.count()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"{service}-engine")
        self._pump = asyncio.create_task(self._run(), name=f"{service}-batcher")

    def load(self) -> tuple[int, float]:
        """Tokens queued, and the seconds they are expected to take."""
        return self._queued_tokens, self._queued_tokens * self._seconds_per_token

    async def submit(self, works: Sequence[Work[P]], *, priority: int = 1, timeout_s: float | None = None) -> list[Done[R]]:
        """Compute items; returns one Done an item, in order.

        Raises:
            CallError: RESOURCE_EXHAUSTED when the queue is full or the wait would outlast the deadline, UNAVAILABLE after `close`.
        """
        if not works:
            return []
        if self._pump.done():
            raise CallError(grpc.StatusCode.UNAVAILABLE, "the server is stopping")
        tokens = sum(work.tokens for work in works)
        self._admit(tokens, timeout_s)
        now = time.monotonic()
        deadline = math.inf if timeout_s is None else now + timeout_s
        call = next(self._calls)
        loop = asyncio.get_running_loop()
        entries = [
            _Entry(work, (call, work.group), (priority, deadline, next(self._arrivals)), deadline, now, loop.create_future())
            for work in works
        ]
        self._waiting.extend(entries)
        self._waiting.sort(key=lambda entry: entry.order)
        self._add_queued(tokens)
        metrics.INFLIGHT_ITEMS.labels(self._service).inc(len(entries))
        self._wake.set()
        try:
            return list(await asyncio.gather(*(entry.future for entry in entries)))
        except asyncio.CancelledError:
            self._drop_stale()  # the caller has gone: its items make room at once
            raise
        finally:
            metrics.INFLIGHT_ITEMS.labels(self._service).dec(len(entries))

    async def close(self) -> None:
        """Stop the worker; what still waits becomes an absence."""
        self._pump.cancel()
        await asyncio.gather(self._pump, return_exceptions=True)
        stopping = absence(pb.ABSENCE_REASON_INFRASTRUCTURE, "the server is stopping", retryable=True)
        for entry in self._waiting:
            self._finish(entry, None, stopping, 0.0)
        self._add_queued(-self._queued_tokens)
        self._waiting.clear()
        await asyncio.to_thread(self._thread.shutdown)
        # A batch that was cancelled before the worker took it; one that was computed has its results by now.
        for entry in self._computing:
            self._finish(entry, None, stopping, 0.0)

    def _admit(self, tokens: int, timeout_s: float | None) -> None:
        _, wait_s = self.load()
        if self._queued_tokens and self._queued_tokens + tokens > self._limit:
            raise overloaded(f"queue holds {self._queued_tokens} of {self._limit} tokens, no room for {tokens} more", max(wait_s / 2, 0.05))
        if timeout_s is not None and 0 < timeout_s < wait_s:
            raise overloaded(f"expected wait {wait_s:.2f} s is longer than the call's {timeout_s:.2f} s", max(wait_s - timeout_s, 0.05))

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._wake.wait()
            batch = self._take()
            if not batch:
                self._wake.clear()
                continue
            self._computing = batch
            began = time.monotonic()
            for entry in batch:
                metrics.QUEUE_SECONDS.labels(self._service).observe(began - entry.arrived)
            await loop.run_in_executor(self._thread, self._compute_batch, batch, loop)

    def _take(self) -> list[_Entry[P, R]]:
        """Remove and return the best batch; drops entries that nobody waits for."""
        self._drop_stale()
        if not self._waiting:
            return []
        head = self._waiting[0]
        units: dict[Hashable, list[_Entry[P, R]]] = {}
        for entry in self._waiting:
            if entry.work.lane == head.work.lane and (not self._invariant or entry.unit == head.unit):
                key = entry.unit if self._invariant else entry.work.group
                units.setdefault(key, []).append(entry)
        batch: list[_Entry[P, R]] = []
        used = 0
        for members in units.values():
            shared_paid = False
            for entry in members:
                cost = entry.work.tokens - (entry.work.shared_tokens if shared_paid else 0)
                if batch and used + cost > self._budget:
                    break
                batch.append(entry)
                used += cost
                shared_paid = True
            if used >= self._budget:
                break
        taken = set(map(id, batch))
        self._waiting = [entry for entry in self._waiting if id(entry) not in taken]
        self._add_queued(-sum(entry.work.tokens for entry in batch))
        metrics.BATCH_ITEMS.labels(self._service).observe(len(batch))
        return batch

    def _drop_stale(self) -> None:
        now = time.monotonic()
        kept = []
        for entry in self._waiting:
            if entry.future.done():
                metrics.ITEMS.labels(self._service, "", "cancelled").inc()
            elif entry.deadline <= now:
                self._finish(entry, None, absence(pb.ABSENCE_REASON_DEADLINE, "the deadline passed in the queue", retryable=True), 0.0)
            else:
                kept.append(entry)
                continue
            self._add_queued(-entry.work.tokens)
        self._waiting = kept

    def _compute_batch(self, batch: Sequence[_Entry[P, R]], loop: asyncio.AbstractEventLoop) -> None:
        """On the worker thread: compute, and when a batch fails find the items that are to blame."""
        began = time.monotonic()
        payloads = [entry.work.payload for entry in batch]
        try:
            results = self._compute(batch[0].work.lane, payloads)
            if len(results) != len(batch):
                raise RuntimeError(f"the engine gave {len(results)} results for {len(batch)} items")
        except Exception as error:  # an engine may fail in any way; the others of the batch must not pay for it
            if len(batch) > 1:
                log.warning("batch failed, computing its items one by one", items=len(batch), error=repr(error))
                for entry in batch:
                    self._compute_batch([entry], loop)
                return
            log.exception("item failed in the engine")
            lost = absence(pb.ABSENCE_REASON_INFRASTRUCTURE, f"the engine failed: {type(error).__name__}: {error}")
            loop.call_soon_threadsafe(self._finish, batch[0], None, lost, time.monotonic() - began)
            return
        seconds = time.monotonic() - began
        metrics.COMPUTE_SECONDS.labels(self._service).observe(seconds)
        metrics.BATCH_TOKENS.labels(self._service).observe(sum(computed for _, computed in results))
        tokens = sum(entry.work.tokens for entry in batch)
        per_token = seconds / max(tokens, 1)
        self._seconds_per_token = per_token if not self._seconds_per_token else 0.8 * self._seconds_per_token + 0.2 * per_token
        for entry, (result, computed) in zip(batch, results, strict=True):
            loop.call_soon_threadsafe(self._finish, entry, result, None, seconds, computed)

    def _finish(
        self, entry: _Entry[P, R], result: R | None, lost: pb.Absence | None, compute_seconds: float, tokens_computed: int = 0
    ) -> None:
        if not entry.future.done():
            waited = max(time.monotonic() - entry.arrived - compute_seconds, 0.0)
            entry.future.set_result(Done(result, lost, waited, compute_seconds, tokens_computed))

    def _add_queued(self, tokens: int) -> None:
        self._queued_tokens += tokens
        metrics.QUEUE_TOKENS.labels(self._service).set(self._queued_tokens)
