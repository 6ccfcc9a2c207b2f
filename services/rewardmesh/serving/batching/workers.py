"""The threads that compute: each forms its next batch itself when it is free, out of whatever waits at that very moment.

So none of them ever waits for the event loop between two batches, and the last interactive call to arrive still goes first.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Generic

from rewardmesh.serving import metrics
from rewardmesh.serving.batching.admission import Admission
from rewardmesh.serving.batching.computing import Compute, Outcome, compute_batch
from rewardmesh.serving.batching.cost import CostModel
from rewardmesh.serving.batching.forming import Batch, Former
from rewardmesh.serving.batching.jobs import Job
from rewardmesh.serving.batching.queue import Queue
from rewardmesh.serving.batching.work import Done, P, R, Ticket
from rewardmesh.serving.context import Priority
from rewardmesh.serving.deadlines import until
from rewardmesh.serving.logs import get_logger
from rewardmesh.serving.validation import absence
from rewardmesh.v1 import common_pb2 as pb

log = get_logger(__name__)

_CLASSES = frozenset(Priority)
OTHER = "other"


class Workers(Generic[P, R]):
    """Threads that take batches and jobs in turn until they are ended.

    Args:
        compute, service, number, initialise, max_delay_s, budget_tokens: as the batcher's.
        tenants: names that the metrics tell apart.
        queue, costs, admission, former: shared with the batcher.

    Attributes:
        changed: guards everything that is shared; all are notified when there is work or an end to it.
        closed: why nothing is taken any more, "" while it works.
    """

    def __init__(
        self,
        compute: Compute[P, R],
        queue: Queue[R],
        costs: CostModel,
        admission: Admission,
        former: Former[R],
        *,
        service: str,
        number: int,
        tenants: Collection[str],
        initialise: Callable[[], None] | None,
        budget_tokens: int,
        max_delay_s: float,
    ) -> None:
        self.changed = threading.Condition(threading.Lock())
        self.closed = ""
        self.jobs: deque[Job] = deque()
        self._compute = compute
        self._queue = queue
        self._costs = costs
        self._admission = admission
        self._former = former
        self._budget = budget_tokens
        self._max_delay_s = max_delay_s
        self._loop = asyncio.get_running_loop()
        self._cancelled = metrics.ITEMS.labels(service, "", "cancelled")
        self._queue_tokens = metrics.QUEUE_TOKENS.labels(service)
        self._queue_items = {name: metrics.QUEUE_ITEMS.labels(service, name) for name in (*(p.name.lower() for p in Priority), OTHER)}
        self._queue_seconds = metrics.QUEUE_SECONDS.labels(service)
        self._compute_seconds = metrics.COMPUTE_SECONDS.labels(service)
        self._batch_tokens = metrics.BATCH_TOKENS.labels(service)
        self._batch_items = metrics.BATCH_ITEMS.labels(service)
        # Callers choose their names; only those of the configuration may become labels.
        self._tenant_tokens = {name: metrics.TENANT_TOKENS.labels(service, name) for name in (*tenants, OTHER)}
        self._initialise = initialise
        self._job_runs = False
        self._threads = [
            threading.Thread(target=self._work, args=(index,), name=f"{service}-engine-{index}", daemon=True) for index in range(number)
        ]
        for thread in self._threads:
            thread.start()

    def end(self, why: str) -> list[Ticket[R]]:
        """Take nothing any more; returns what waited. `changed` must be held."""
        self.closed = self.closed or why
        left = self._queue.drain()
        while self.jobs:
            self.jobs.popleft().refuse()
        self.gauge()
        self.changed.notify_all()
        return left

    def join(self) -> None:
        """Wait for the end of what is computed; blocks."""
        for thread in self._threads:
            thread.join()

    def post(self, function: Callable[..., None], *arguments: object) -> None:
        """Call a function on the event loop."""
        if self._loop.is_closed():
            log.warning("the event loop ended before the batcher was closed")
            return
        self._loop.call_soon_threadsafe(function, *arguments)

    def answer(self, tickets: Sequence[Ticket[R]], lost: pb.Absence) -> None:
        """Answer items that are not computed; on the event loop."""
        now = time.monotonic()
        for ticket in tickets:
            ticket.settle(Done(None, lost, max(now - ticket.arrived, 0.0)))

    def gauge(self) -> None:
        """Show what waits; `changed` must be held."""
        self._queue_tokens.set(self._queue.tokens)
        for number, level in self._queue.levels.items():
            self._queue_items[Priority(number).name.lower() if number in _CLASSES else OTHER].set(level.items)

    def _work(self, index: int) -> None:
        batch: Batch[R] = Batch()
        try:
            if self._initialise:
                self._initialise()
            while not self.closed:
                job, batch = self._next(index, jobs_first=bool(batch.tickets))
                if job is not None:
                    self._run_job(job)
                elif batch.tickets:
                    self._run(batch)
        except Exception as error:  # a mistake in the policy must not leave callers waiting for ever
            log.exception("the batcher failed")
            why = f"the batcher failed: {error!r}"
            with self.changed:
                left = [*batch.tickets, *self.end(why)]
            self.post(self.answer, left, absence(pb.ABSENCE_REASON_INFRASTRUCTURE, why))

    def _next(self, index: int, *, jobs_first: bool) -> tuple[Job | None, Batch[R]]:
        """Wait for work; returns a job, or a batch that is empty when there is nothing to compute after all."""
        with self.changed:
            idle = not self._queue
            self._admission.batch_ended(index)
            while not (self._queue or self._job_waits or self.closed):
                self.changed.wait()
            if not self._job_waits:
                self._linger()
            if self.closed:
                return None, Batch()
            if self._job_waits and (jobs_first or not self._queue):
                self._job_runs = True
                return self.jobs.popleft(), Batch()
            now = time.monotonic()
            batch = self._former.form(now, idle=idle, workers=len(self._threads), running_tokens=self._admission.running_tokens(now))
            if batch.tickets:
                self._admission.batch_began(index, now, batch.cost)
            self.gauge()
        for name, tokens in batch.charged.items():
            self._tenant_tokens.get(name, self._tenant_tokens[OTHER]).inc(tokens)
        if batch.gone:
            self._cancelled.inc(batch.gone)
        for tickets, why in ((batch.expired, "the deadline passed in the queue"), (batch.hopeless, "it could not be ready in time")):
            if tickets:
                self.post(self.answer, tickets, absence(pb.ABSENCE_REASON_DEADLINE, why, retryable=True))
        return None, batch

    @property
    def _job_waits(self) -> bool:
        """Jobs run one at a time: they may share what they work on."""
        return bool(self.jobs) and not self._job_runs

    def _run_job(self, job: Job) -> None:
        job()
        with self.changed:
            self._job_runs = False
            if self.jobs:
                self.changed.notify_all()

    def _linger(self) -> None:
        """Wait for more while the batch is not full, nothing has waited for long and no deadline is near."""
        while self._max_delay_s and not (self.closed or self._job_waits) and self._queue.cost < self._budget:
            oldest = self._queue.oldest()
            if oldest is None:
                return
            latest = self._queue.first_expiry - self._costs.seconds(self._queue.cost)
            left = min(oldest.arrived + self._max_delay_s, latest) - time.monotonic()
            if left <= 0:
                return
            self.changed.wait(left)

    def _run(self, batch: Batch[R]) -> None:
        began = time.monotonic()
        with until(batch.expires):
            outcomes, clean = compute_batch(self._compute, batch.tickets)
        seconds = time.monotonic() - began
        self.post(self._deliver, outcomes, began)
        if clean:
            with self.changed:
                self._costs.observe(batch.cost, seconds)
            self._compute_seconds.observe(seconds)
            self._batch_tokens.observe(sum(outcome.tokens_computed for outcome in outcomes))
        self._batch_items.observe(len(outcomes))

    def _deliver(self, outcomes: Sequence[Outcome[R]], began: float) -> None:
        """On the event loop: all results of a batch at once."""
        for ticket, result, lost, seconds, tokens in outcomes:
            waited = max(began - ticket.arrived, 0.0)
            self._queue_seconds.observe(waited)
            ticket.settle(Done(result, lost, waited, seconds, tokens))
