"""The batching policy in simulated time: arrivals, workers of known speed, and what becomes of every call."""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from rewardmesh.serving.batching import Done, Ticket, Work
from rewardmesh.serving.batching.admission import Admission
from rewardmesh.serving.batching.cost import CostModel
from rewardmesh.serving.batching.forming import Batch, Former
from rewardmesh.serving.batching.queue import Queue


@dataclass
class SimulatedCall:
    """One call: `items` items of a prompt of its own, `tokens` each, `shared` of them the prompt's."""

    at: float
    items: int = 4
    tokens: int = 200
    shared: int = 100
    timeout_s: float | None = None
    priority: int = 1
    tenant: str = ""
    refused: bool = False
    dropped: int = 0
    finished: list[float] = field(default_factory=list)

    @property
    def cost(self) -> int:
        return self.shared + self.items * (self.tokens - self.shared)

    @property
    def deadline(self) -> float:
        return math.inf if self.timeout_s is None else self.at + self.timeout_s

    @property
    def in_time(self) -> bool:
        """Whether all of it was answered with results before its deadline."""
        return len(self.finished) == self.items and max(self.finished) <= self.deadline


class Simulation:
    """Queue, admission and former as the batcher connects them, under a clock that jumps from event to event."""

    def __init__(
        self,
        seconds: Callable[[Batch[float]], float],
        *,
        budget: int = 4096,
        limit: int = 2_000_000,
        max_wait_s: float = 30.0,
        weights: dict[str, float] | None = None,
        workers: int = 1,
    ) -> None:
        self.queue: Queue[float] = Queue(weights or {})
        self.costs = CostModel()
        self.admission = Admission(self.queue, self.costs, limit_tokens=limit, budget_tokens=budget, workers=workers)
        self.former: Former[float] = Former(
            self.queue, self.costs, budget_tokens=budget, target_tokens=budget, max_wait_s=max_wait_s, invariant=False
        )
        self.seconds = seconds
        self.workers = workers
        self.free = list(range(workers))
        self.ends: list[tuple[float, int]] = []  # when which worker is free again
        self.batches: list[tuple[float, float, Batch[float]]] = []
        self.owners: dict[int, SimulatedCall] = {}
        self.busy_s = 0.0

    def run(self, calls: Iterable[SimulatedCall]) -> None:
        """Play the arrivals, then let the queue run empty."""
        for call in sorted(calls, key=lambda each: each.at):
            self._until(call.at)
            self._arrive(call)
            self._start(call.at, idle=True)
        self._until(math.inf)

    def _until(self, now: float) -> None:
        while self.ends and self.ends[0][0] <= now:
            at, worker = heapq.heappop(self.ends)
            self.admission.batch_ended(worker)
            self.free.append(worker)
            self._start(at, idle=False)

    def _arrive(self, call: SimulatedCall) -> None:
        works = [Work(None, "v1", id(call), call.tokens, call.shared) for _ in range(call.items)]
        if self.admission.refusal(works, call.priority, call.timeout_s, call.tenant, call.at):
            call.refused = True
            return

        def settle(done: Done[float]) -> None:
            if done.result is None:
                call.dropped += 1
            else:
                call.finished.append(done.result)

        tickets: list[Ticket[float]] = [Ticket(work, call.at, settle) for work in works]
        self.owners.update((id(ticket), call) for ticket in tickets)
        self.queue.push(tickets, call.priority, call.tenant, call.deadline)

    def _start(self, now: float, *, idle: bool) -> None:
        """Let the free workers form and compute batches."""
        while self.free and self.queue:
            batch = self.former.form(now, idle=idle, workers=self.workers, running_tokens=self.admission.running_tokens(now))
            for ticket in (*batch.expired, *batch.hopeless):
                ticket.settle(Done(None, None))
            if not batch.tickets:
                continue
            worker = self.free.pop()
            self.admission.batch_began(worker, now, batch.cost)
            seconds = self.seconds(batch)
            self.busy_s += seconds
            self.costs.observe(batch.cost, seconds)
            self.batches.append((now, now + seconds, batch))
            heapq.heappush(self.ends, (now + seconds, worker))
            for ticket in batch.tickets:
                ticket.settle(Done(now + seconds, None))


def open_loop(rate: float, until_s: float, make: Callable[[float, random.Random], SimulatedCall], *, seed: int = 0) -> list[SimulatedCall]:
    """Poisson arrivals at `rate` calls a second."""
    rng = random.Random(seed)
    calls, now = [], 0.0
    while (now := now + rng.expovariate(rate)) < until_s:
        calls.append(make(now, rng))
    return calls
