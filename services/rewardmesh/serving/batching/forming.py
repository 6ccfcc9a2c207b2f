"""Which items are computed together next.

The order is: what has waited too long, then priority class, then fairness between tenants, then deadline, then arrival. The first
bundle decides the lane. Once a group's prompt is in the batch, the rest of the group follows, whoever brought it; after that the order
goes on. A bundle that does not fit is left for the next batch, where it stands where it stood, and a bounded number of others behind
it are tried. An item that cannot be ready before its deadline is dropped instead of computed: under overload every batch would
otherwise be spent on answers that come too late.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic

from rewardmesh.serving.batching.cost import CostModel
from rewardmesh.serving.batching.queue import Queue
from rewardmesh.serving.batching.tenants import Tenant
from rewardmesh.serving.batching.work import Bundle, R, Ticket

SMALLEST_PART = 512
"""Tokens: what waits is not divided among workers into smaller batches."""
WINDOW = 32
"""Bundles that are tried beyond those that fit, before a batch is closed."""
MOST_DROPPED = 1024
"""Items that are dropped while one batch is formed; with more, nobody else could get at the queue for too long."""
AGED_SHARE = 0.25
"""Part of the throughput that goes to what has waited too long while others would be first: enough that nothing starves, and not
so much that a flood of low-priority work overtakes all others once it is old."""


@dataclass
class Batch(Generic[R]):
    """Items to compute together.

    Attributes:
        cost: tokens to compute, after sharing.
        expired, hopeless: items that were dropped on the way: too late already, or too late by the time they could be ready.
        gone: items whose caller had gone.
        charged: tokens that each tenant is charged.
        expires: monotonic time at which nobody wants any of the items any more.
    """

    cost: int = 0
    tickets: list[Ticket[R]] = field(default_factory=list)
    expired: list[Ticket[R]] = field(default_factory=list)
    hopeless: list[Ticket[R]] = field(default_factory=list)
    gone: int = 0
    charged: dict[str, int] = field(default_factory=dict)
    expires: float = 0.0

    @property
    def lane(self) -> Hashable:
        """What all items have in common."""
        return self.tickets[0].work.lane


class Former(Generic[R]):
    """Forms batches out of a queue.

    Args:
        queue, costs: what waits, and how long it takes.
        budget_tokens: most tokens a batch may cost; a single larger item is a batch of its own.
        target_tokens: a batch is closed at so many; only a group may make it more.
        max_wait_s: what has waited longer may go first.
        invariant: a batch is the items of one group of one call, cut by budget alone.
    """

    def __init__(
        self, queue: Queue[R], costs: CostModel, *, budget_tokens: int, target_tokens: int, max_wait_s: float, invariant: bool
    ) -> None:
        self._queue = queue
        self._costs = costs
        self._budget = budget_tokens
        self._target = target_tokens
        self._max_wait_s = max_wait_s
        self._invariant = invariant
        self._debt = 0.0  # tokens that aged items were given ahead of their share

    def form(self, now: float, *, idle: bool, workers: int = 1, running_tokens: float = 0.0) -> Batch[R]:
        """Remove and return the best batch; empty when nothing is left to compute, or so much was dropped that it should be asked again.

        Args:
            idle: nothing was computed just before. Then the first item is computed whatever is expected of it: expectations are
                corrected only by computing.
            workers: that compute. They divide what waits so that all end at about the same time, but for groups, which stay whole.
            running_tokens: what the others have yet to compute of their batches.
        """
        filling = _Filling(self._queue, self._costs, self._budget, self._invariant, now, idle)
        if not self._invariant:
            filling.part = min(self._target, max((self._queue.cost + running_tokens) / workers, SMALLEST_PART))
        filling.batch.expired = self._queue.expired(now, MOST_DROPPED)
        aged = self._queue.oldest() if self._debt <= 0 else None
        if aged is not None and now - aged.arrived >= self._max_wait_s:
            filling.turn(aged)
            self._debt += filling.batch.cost
        for number in sorted(self._queue.levels):
            filling.fill(number)
        batch = filling.batch
        self._debt = max(self._debt - AGED_SHARE * batch.cost, 0.0)
        return batch


class _Filling(Generic[R]):
    """One batch while it is filled."""

    def __init__(self, queue: Queue[R], costs: CostModel, budget: int, invariant: bool, now: float, idle: bool) -> None:
        self.batch: Batch[R] = Batch()
        self._queue = queue
        self._costs = costs
        self._invariant = invariant
        self._now = now
        self._idle = idle
        self.part: float = budget  # tokens; only a group may make it more
        self._limit: float = budget  # tokens; less when a member's deadline comes first
        self._budget = budget
        self._groups: set[Hashable] = set()
        self._misses = 0

    @property
    def _full(self) -> bool:
        if (self._invariant and self.batch.tickets) or len(self.batch.expired) + len(self.batch.hopeless) >= MOST_DROPPED:
            return True
        return bool(self.batch.tickets) and (self.batch.cost >= min(self._limit, self.part) or self._misses >= WINDOW)

    def fill(self, number: int) -> None:
        """Add what fits of one priority class."""
        level = self._queue.levels[number]
        if self.batch.tickets and not self._invariant:
            for group in tuple(self._groups):
                self._ride(number, group)
        aside: list[tuple[Tenant, Bundle[R]]] = []
        parked: list[Tenant] = []
        while not self._full:
            tenant = level.next()
            if tenant is None:
                break
            bundle: Bundle[R] | None = tenant.best(self.batch.lane) if self.batch.tickets else tenant.best()
            if bundle is None:
                parked.append(tenant)
                continue
            self.turn(bundle)
            if bundle.live:  # it does not fit, or not all of it: the next batch takes it up again
                tenant.pop(bundle)
                aside.append((tenant, bundle))
                self._misses += 1
            level.stand(tenant)
        for tenant, bundle in aside:
            if bundle.live:
                tenant.add(bundle)
        for tenant in parked:
            level.stand(tenant)

    def turn(self, bundle: Bundle[R]) -> None:
        """Add what fits of a bundle whose turn it is, and then of its group."""
        cost = self._draw(bundle)
        if cost is not None:
            self._charge(bundle, cost, turn=True)
            if not self._invariant:
                self._ride(bundle.priority, bundle.group)

    def _ride(self, number: int, group: Hashable) -> None:
        """The group's other bundles, now that its prompt is paid for."""
        for bundle in self._queue.siblings(number, self.batch.lane, group):
            cost = self._draw(bundle)
            if cost is None and bundle.live:
                return
            if cost is not None:
                self._charge(bundle, cost, turn=False)

    def _charge(self, bundle: Bundle[R], cost: int, *, turn: bool) -> None:
        self._queue.levels[bundle.priority].charge(bundle.tenant, cost, turn=turn)
        self.batch.charged[bundle.tenant.name] = self.batch.charged.get(bundle.tenant.name, 0) + cost

    def _draw(self, bundle: Bundle[R]) -> int | None:
        """Move what fits of a bundle into the batch; returns what it costs, None when nothing was moved."""
        batch = self.batch
        if bundle.expires <= self._now:
            batch.expired += self._queue.drop(bundle)
            return None
        paid = bundle.group in self._groups
        whole = bundle.live > 1 and bundle.shares and bundle.cost <= self._budget
        if batch.tickets and not paid and whole and batch.cost + bundle.cost > min(self._limit, self.part):
            return None  # in a batch of its own its prefix is computed once
        began = batch.cost
        moved = False
        left = bundle.expires - self._now
        possible, safe = self._costs.tokens_within(left), self._costs.tokens_safely_within(left)
        # A batch that is mostly overhead saves this item and makes many others late.
        worthwhile = min(self._costs.efficient_tokens, self._queue.cost)
        while (ticket := bundle.next()) is not None:
            if ticket.gone:
                self._queue.take(bundle, ticket)
                batch.gone += 1
                continue
            after = batch.cost + ticket.work.tokens - (ticket.work.shared_tokens if paid else 0)
            if not moved and (after > possible or possible < worthwhile) and (batch.tickets or not self._idle):
                batch.hopeless += self._queue.drop(bundle)  # in a later batch it would be later still
                break
            if batch.tickets and after > (self._limit if bundle.shares else min(self._limit, self.part)):
                break
            self._queue.take(bundle, ticket)
            batch.tickets.append(ticket)
            batch.cost = after
            batch.expires = max(batch.expires, bundle.expires)
            self._groups.add(bundle.group)
            paid = moved = True
            if not self._invariant:
                self._limit = min(self._limit, max(safe, worthwhile, after))
        return batch.cost - began if moved else None
