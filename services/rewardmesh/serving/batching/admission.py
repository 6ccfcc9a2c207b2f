"""Who is refused at the door: better told at once to come again than accepted and answered too late.

A call is refused when the queue is full, or when what is computed before it and itself would outlast its deadline. What is computed
before it: the rest of the running batch, everything of a better class, and of its own class what its tenant and the fair shares of
the other tenants put before it.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

from rewardmesh.serving.batching.cost import CostModel
from rewardmesh.serving.batching.queue import Queue
from rewardmesh.serving.batching.work import Work
from rewardmesh.serving.errors import CallError, overloaded

TENANT_RESERVE = 0.1
"""Part of the queue that a tenant may fill even when others have filled it all..."""
OVERFLOW = 1.5
"""...until so many times the queue's size are waiting."""
SOONEST_RETRY_S = 0.05

Refusal = tuple[str, CallError]
"""A word for the metrics, and what the caller is told."""


class Admission:
    """Decides about newcomers.

    Args:
        queue, costs: what waits, and how long it takes.
        limit_tokens: most tokens that wait, before sharing. One tenant alone may fill all of it; one that holds little may come in
            all the same, so that none is kept out by another.
        budget_tokens: of a batch.
        workers: threads that compute.
    """

    def __init__(self, queue: Queue[Any], costs: CostModel, *, limit_tokens: int, budget_tokens: int, workers: int = 1) -> None:
        self._queue = queue
        self._costs = costs
        self._limit = limit_tokens
        self._batch_cost = float(budget_tokens)  # of batches that leave something behind: the overhead of a queue depends on it
        self._workers = workers
        self._running: dict[int, tuple[float, float, int]] = {}  # worker: when its batch began, its expected duration, its tokens

    def batch_began(self, worker: int, now: float, cost: int) -> None:
        """A worker computes from now on."""
        self._running[worker] = now, self._costs.seconds(cost), cost
        if self._queue:
            self._batch_cost += 0.2 * (max(cost, 1) - self._batch_cost)

    def batch_ended(self, worker: int) -> None:
        """A worker is free."""
        self._running.pop(worker, None)

    def running_tokens(self, now: float) -> float:
        """What is left to compute of the running batches, as far as that can be told."""
        return sum(
            cost * (max(1 - (now - began) / expected_s, 0.0) if expected_s else 1.0) for began, expected_s, cost in self._running.values()
        )

    def wait_s(self, now: float) -> float:
        """Seconds until all that waits now is computed."""
        return (self._rest_s(now) + self._seconds(self._queue.cost)) / self._workers

    def refusal(self, works: Sequence[Work[Any]], priority: int, timeout_s: float | None, tenant: str, now: float) -> Refusal | None:
        """Why a call is refused; None when it is welcome."""
        return self._full(sum(work.tokens for work in works), tenant, now) or self._late(_cost(works), priority, timeout_s, tenant, now)

    def _full(self, tokens: int, tenant: str, now: float) -> Refusal | None:
        waiting = self._queue.tokens
        if not waiting or (waiting + tokens <= self._limit and waiting < self._limit):
            return None
        own = self._queue.tenant_tokens.get(tenant, 0)
        if own < waiting and own + tokens <= TENANT_RESERVE * self._limit and waiting + tokens <= OVERFLOW * self._limit:
            return None
        why = f"queue holds {waiting} of {self._limit} tokens, no room for {tokens} more"
        return "queue_full", overloaded(why, max(self.wait_s(now) / 2, SOONEST_RETRY_S))

    def _late(self, cost: int, priority: int, timeout_s: float | None, tenant: str, now: float) -> Refusal | None:
        if timeout_s is None or timeout_s <= 0 or not (self._running or self._queue):
            return None  # a free worker tries: expectations are corrected only by computing
        ahead = self._queue.cost_before(priority, tenant, True, cost)
        expected = (self._rest_s(now) + self._seconds(ahead + cost)) / self._workers
        # All workers share the work before the last batch; that one runs beside those of others that come later.
        expected += (1 - 1 / self._workers) * self._seconds(min(ahead + cost, self._batch_cost))
        safe = self._costs.safe_seconds(expected)
        if safe <= timeout_s:
            return None
        why = f"the answer is expected in {expected:.2f} s, to be sure of it takes {safe:.2f} s, longer than the call's {timeout_s:.2f} s"
        return "deadline", overloaded(why, max(safe - timeout_s, SOONEST_RETRY_S))

    def _seconds(self, cost: float) -> float:
        return self._costs.seconds(cost, max(cost / self._batch_cost, 1.0)) if cost else 0.0

    def _rest_s(self, now: float) -> float:
        # A batch that has taken longer than expected is expected to take as much longer again.
        return sum(abs(began + expected_s - now) for began, expected_s, _ in self._running.values() if expected_s)


def _cost(works: Sequence[Work[Any]]) -> int:
    """Tokens to compute for a call alone, prefixes of groups counted once."""
    shared: dict[Hashable, int] = {}
    apart = 0
    for work in works:
        apart += work.tokens - work.shared_tokens
        key = (work.lane, work.group)
        shared[key] = max(shared.get(key, 0), work.shared_tokens)
    return apart + sum(shared.values())
