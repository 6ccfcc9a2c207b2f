"""The batcher: a bounded queue in front of the worker threads that compute.

A worker pulls: a batch is formed only when one is free, out of whatever waits then, so an idle server adds no delay.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Generic, TypedDict, TypeVar

import grpc

from rewardmesh.serving import metrics
from rewardmesh.serving.batching.admission import Admission
from rewardmesh.serving.batching.cost import CostModel
from rewardmesh.serving.batching.forming import Former
from rewardmesh.serving.batching.jobs import Job
from rewardmesh.serving.batching.queue import Queue
from rewardmesh.serving.batching.work import Done, P, R, Ticket, Work
from rewardmesh.serving.batching.workers import Workers
from rewardmesh.serving.errors import CallError
from rewardmesh.serving.validation import absence
from rewardmesh.v1 import common_pb2 as pb

T = TypeVar("T")


class BatcherOptions(TypedDict):
    """The part of a Batcher's arguments that comes from the configuration; see there."""

    budget_tokens: int
    target_tokens: int
    max_queue_tokens: int
    batch_invariant: bool
    max_wait_seconds: float
    max_delay_seconds: float
    tenant_weights: Mapping[str, float]
    workers: int
    initialise: Callable[[], None] | None


class Batcher(Generic[P, R]):
    """Orders, batches and computes items; must be made and used on one event loop.

    Args:
        compute: runs on a worker thread: (lane, payloads) -> one (result, tokens really computed) a payload.
        service: label of the metrics.
        budget_tokens: most tokens really computed in a batch (a single larger item is computed alone).
        target_tokens: a batch is closed at so many, if that cuts no group; 0 for the budget.
        max_queue_tokens: more waiting than this is refused with RESOURCE_EXHAUSTED.
        batch_invariant: every group of a call is a batch of its own, so that a score can never depend on what else was waiting:
            replays are equal to the bit, at some cost in throughput.
        max_wait_seconds: what has waited longer goes before better classes and other tenants, within a quarter of the throughput.
        max_delay_seconds: how long a batch that is not full may wait for more; 0 for not at all.
        tenant_weights: of tenants whose share is not 1.
        workers: threads that compute, each a batch of its own; what waits is divided among those that are free.
        initialise: run first by each of these threads.
    """

    def __init__(
        self,
        compute: Callable[[Hashable, Sequence[P]], Sequence[tuple[R, int]]],
        *,
        service: str,
        budget_tokens: int,
        target_tokens: int = 0,
        max_queue_tokens: int,
        batch_invariant: bool = False,
        max_wait_seconds: float = 30.0,
        max_delay_seconds: float = 0.0,
        tenant_weights: Mapping[str, float] | None = None,
        workers: int = 1,
        initialise: Callable[[], None] | None = None,
    ) -> None:
        self._service = service
        self._queue: Queue[R] = Queue(dict(tenant_weights or {}))
        costs = CostModel()
        target = min(target_tokens or budget_tokens, budget_tokens)
        self._admission = Admission(self._queue, costs, limit_tokens=max_queue_tokens, budget_tokens=target, workers=workers)
        former = Former(
            self._queue, costs, budget_tokens=budget_tokens, target_tokens=target, max_wait_s=max_wait_seconds, invariant=batch_invariant
        )
        self._inflight = metrics.INFLIGHT_ITEMS.labels(service)
        self._loop = asyncio.get_running_loop()
        self._workers: Workers[P, R] = Workers(
            compute,
            self._queue,
            costs,
            self._admission,
            former,
            service=service,
            number=workers,
            tenants=tuple(tenant_weights or ()),
            initialise=initialise,
            budget_tokens=target,
            max_delay_s=max_delay_seconds,
        )
        self._changed = self._workers.changed

    def load(self) -> tuple[int, float]:
        """Tokens queued, and the seconds until they and the running batches are computed."""
        with self._changed:
            return self._queue.tokens, self._admission.wait_s(time.monotonic())

    def check(self, *, priority: int = 1, timeout_s: float | None = None, tenant: str = "") -> None:
        """Refuse now what `submit` would refuse, whatever it brings: saves the caller the work of preparing it.

        Raises:
            CallError: as `submit`.
        """
        with self._changed:
            self._admit((), priority, timeout_s, tenant, time.monotonic())

    async def submit(
        self, works: Sequence[Work[P]], *, priority: int = 1, timeout_s: float | None = None, tenant: str = ""
    ) -> list[Done[R]]:
        """Compute items; returns one Done an item, in order.

        Args:
            priority: class; smaller goes first.
            timeout_s: until when somebody waits for the answer; None for ever.
            tenant: who is charged, "" for callers that do not say.

        Raises:
            CallError: RESOURCE_EXHAUSTED when the queue is full or the answer would come after the deadline, UNAVAILABLE after `close`.
        """
        if not works:
            return []
        call: _Call[R] = _Call(len(works), self._loop.create_future())
        now = time.monotonic()
        tickets = [Ticket(work, now, call.collector(index)) for index, work in enumerate(works)]
        self._put(tickets, works, priority, timeout_s, tenant, now)
        self._inflight.inc(len(works))
        try:
            await call.finished
        except asyncio.CancelledError:
            self._withdraw(tickets)  # the caller has gone: its items make room at once
            raise
        finally:
            self._inflight.dec(len(works))
        return [call.done[index] for index in range(len(works))]

    def enqueue(self, works: Sequence[Work[P]], *, priority: int = 1, timeout_s: float | None = None, tenant: str = "") -> list[Ticket[R]]:
        """As `submit`, but returns at once: one ticket an item, in order, whose futures get the answers."""
        now = time.monotonic()
        tickets = []
        for work in works:
            future: asyncio.Future[Done[R]] = self._loop.create_future()
            tickets.append(Ticket(work, now, _setter(future), future))
        if tickets:
            self._put(tickets, works, priority, timeout_s, tenant, now)
        self._inflight.inc(len(works))
        for ticket in tickets:
            ticket.future.add_done_callback(lambda _: self._inflight.dec())
        return tickets

    def withdraw(self, tickets: Iterable[Ticket[R]]) -> None:
        """Cancel the futures of tickets; items that still wait are not computed and make room at once."""
        tickets = list(tickets)
        for ticket in tickets:
            ticket.future.cancel()
        self._withdraw(tickets)

    def hasten(self, tickets: Iterable[Ticket[R]], *, priority: int, deadline: float) -> None:
        """Another caller wants items too; nothing changes for those that are being computed.

        Args:
            priority: its class; the better of both holds.
            deadline: monotonic seconds, `math.inf` for none. The earlier of both orders an item, after the later it is dropped.
        """
        with self._changed:
            self._queue.hasten(tickets, priority, deadline)

    async def run(self, job: Callable[[], T]) -> T:
        """Run a job of another kind on a worker thread, between two batches, and never beside another job.

        Raises:
            CallError: UNAVAILABLE when the batcher was closed before the job began.
            Exception: whatever the job raises.
        """
        future: asyncio.Future[T] = self._loop.create_future()
        with self._changed:
            self._refuse_when_closed()
            self._workers.jobs.append(Job(job, future, self._workers.post))
            self._changed.notify_all()
        return await future

    async def close(self) -> None:
        """Stop the workers after the batches that they compute; what still waits becomes an absence. Safe to call twice."""
        why = "the server is stopping"
        with self._changed:
            left = self._workers.end(why)
        self._workers.answer(left, absence(pb.ABSENCE_REASON_INFRASTRUCTURE, why, retryable=True))
        await asyncio.to_thread(self._workers.join)

    def _put(
        self, tickets: list[Ticket[R]], works: Sequence[Work[P]], priority: int, timeout_s: float | None, tenant: str, now: float
    ) -> None:
        with self._changed:
            self._admit(works, priority, timeout_s, tenant, now)
            self._queue.push(tickets, priority, tenant, math.inf if timeout_s is None else now + timeout_s)
            self._workers.gauge()
            self._changed.notify_all()

    def _admit(self, works: Sequence[Work[P]], priority: int, timeout_s: float | None, tenant: str, now: float) -> None:
        self._refuse_when_closed()
        refusal = self._admission.refusal(works, priority, timeout_s, tenant, now)
        if refusal:
            reason, error = refusal
            metrics.REFUSED_CALLS.labels(self._service, reason).inc()
            metrics.REFUSED_ITEMS.labels(self._service, reason).inc(len(works))
            raise error

    def _refuse_when_closed(self) -> None:
        if self._workers.closed:
            raise CallError(grpc.StatusCode.UNAVAILABLE, self._workers.closed)

    def _withdraw(self, tickets: Iterable[Ticket[R]]) -> None:
        with self._changed:
            gone = sum(self._queue.withdraw(ticket) for ticket in tickets)
            self._workers.gauge()
        metrics.ITEMS.labels(self._service, "", "cancelled").inc(gone)


class _Call(Generic[R]):
    """Collects the answers of one call; one future for all of them."""

    def __init__(self, items: int, finished: asyncio.Future[None]) -> None:
        self.done: dict[int, Done[R]] = {}
        self.finished = finished
        self._items = items

    def collector(self, index: int) -> Callable[[Done[R]], None]:
        """Takes the first answer of one item; when a batcher fails, the items that it has just computed are answered once more."""

        def settle(done: Done[R]) -> None:
            self.done.setdefault(index, done)
            if len(self.done) == self._items and not self.finished.done():
                self.finished.set_result(None)

        return settle


def _setter(future: asyncio.Future[Done[R]]) -> Callable[[Done[R]], None]:
    def settle(done: Done[R]) -> None:
        if not future.done():
            future.set_result(done)

    return settle
