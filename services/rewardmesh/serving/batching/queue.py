"""What waits: found by priority class and tenant, by group, by age and by expiry. Not thread-safe; the batcher holds the lock.

Every operation is logarithmic in the number of bundles, or amortised so. A bundle that is used up stays where it lies in the heaps; it
falls out when it comes up, or when more than half of what lies there is empty.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Generic

from rewardmesh.serving.batching.tenants import Level
from rewardmesh.serving.batching.work import Bundle, R, Ticket

_SLACK = 1024  # empty bundles that may lie in a heap in any case


class Queue(Generic[R]):
    """The waiting bundles.

    Args:
        weights: of tenants that have another than 1.

    Attributes:
        levels: priority class -> what waits in it.
        tokens: tokens that wait, before sharing.
        cost: tokens to compute, after sharing within bundles.
        tenant_tokens: the same for each tenant that has any, over all classes.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        self.levels: dict[int, Level] = {}
        self.tokens = 0
        self.cost = 0
        self.tenant_tokens: dict[str, int] = {}
        self._live = 0
        self._buried = 0  # empty bundles in the heaps of groups
        self._weights = weights
        self._numbers = itertools.count()
        self._groups: dict[Hashable, list[tuple[tuple[float, int], Bundle[R]]]] = {}
        self._arrivals: deque[Bundle[R]] = deque()
        self._expiries: list[tuple[float, int, Bundle[R]]] = []

    def __bool__(self) -> bool:
        return self._live > 0

    def push(self, tickets: Sequence[Ticket[R]], priority: int, tenant: str, deadline: float) -> None:
        """Add the items of one call."""
        bundles: dict[Hashable, list[Ticket[R]]] = {}
        for ticket in tickets:
            bundles.setdefault((ticket.work.lane, ticket.work.group), []).append(ticket)
        for members in bundles.values():
            self._add(members, priority, tenant, deadline, deadline)

    def withdraw(self, ticket: Ticket[R]) -> bool:
        """Take an item out; False when it did not wait any more."""
        bundle = ticket.bundle
        if bundle is None:
            return False
        self.take(bundle, ticket)
        return True

    def hasten(self, tickets: Iterable[Ticket[R]], priority: int, deadline: float) -> None:
        """Another caller wants the items too: the better class and the earlier deadline order them, the later one ends them.

        Items of one bundle stay together.
        """
        bundles: dict[Bundle[R], list[Ticket[R]]] = {}
        for ticket in tickets:
            if ticket.bundle is not None:
                bundles.setdefault(ticket.bundle, []).append(ticket)
        for bundle, members in bundles.items():
            first, expires = min(bundle.order[0], deadline), max(bundle.expires, deadline)
            better = min(bundle.priority, priority)
            if (better, first, expires) == (bundle.priority, bundle.order[0], bundle.expires):
                continue
            for ticket in members:
                self.take(bundle, ticket)
            self._add(members, better, bundle.tenant.name, first, expires)

    def take(self, bundle: Bundle[R], ticket: Ticket[R]) -> None:
        """Remove one item from its bundle and from all sums."""
        level = self.levels[bundle.priority]
        before = bundle.cost
        bundle.remove(ticket)
        self._count(level, bundle, -1, bundle.cost - before, -ticket.work.tokens)
        if not bundle.live:
            self._ended(level, bundle)

    def drop(self, bundle: Bundle[R]) -> list[Ticket[R]]:
        """Remove a whole bundle; returns the items that waited in it."""
        level = self.levels[bundle.priority]
        gone = bundle.waiting()
        cost, tokens = bundle.cost, bundle.tokens
        for ticket in gone:
            bundle.remove(ticket)
        self._count(level, bundle, -len(gone), -cost, -tokens)
        if gone:
            self._ended(level, bundle)
        return gone

    def expired(self, now: float, most: int) -> list[Ticket[R]]:
        """Remove and return the items whose time is over, about `most` at once."""
        gone: list[Ticket[R]] = []
        while self._expiries and len(gone) < most and (self._expiries[0][0] <= now or not self._expiries[0][2].live):
            gone += self.drop(heapq.heappop(self._expiries)[2])
        return gone

    @property
    def first_expiry(self) -> float:
        """Monotonic time at which the next item expires; infinite when none does. Early when that item has left."""
        return self._expiries[0][0] if self._expiries else math.inf

    def oldest(self) -> Bundle[R] | None:
        """The bundle that arrived first."""
        while self._arrivals and not self._arrivals[0].live:
            self._arrivals.popleft()
        return self._arrivals[0] if self._arrivals else None

    def siblings(self, priority: int, lane: Hashable, group: Hashable) -> Iterable[Bundle[R]]:
        """Bundles of a group in one class, best first, as long as each is used up before the next is asked for."""
        key = (priority, lane, group)
        while heap := self._groups.get(key):
            bundle = heap[0][1]
            yield bundle
            if bundle.live:
                return

    def drain(self) -> list[Ticket[R]]:
        """Remove and return everything."""
        return [ticket for bundle in tuple(self._arrivals) for ticket in self.drop(bundle)]

    def cost_before(self, priority: int, tenant: str, timed: bool, cost: int) -> float:
        """Tokens that are computed before a newcomer of `cost` tokens."""
        better = sum(level.cost for number, level in self.levels.items() if number < priority)
        own = self.levels.get(priority)
        return better + (own.cost_before(tenant, timed, cost) if own else 0)

    def _add(self, tickets: list[Ticket[R]], priority: int, tenant: str, deadline: float, expires: float) -> None:
        level = self.levels.get(priority)
        if level is None:
            level = self.levels[priority] = Level(self._weights)
        owner = level.tenant(tenant)
        bundle = Bundle(tickets, priority, owner, deadline, expires, tickets[0].arrived, next(self._numbers))
        level.add(bundle)
        self._count(level, bundle, len(tickets), bundle.cost, bundle.tokens)
        heapq.heappush(self._groups.setdefault((priority, bundle.lane, bundle.group), []), (bundle.order, bundle))
        self._arrivals.append(bundle)
        self._live += 1
        if expires < math.inf:
            heapq.heappush(self._expiries, (expires, bundle.order[1], bundle))

    def _count(self, level: Level, bundle: Bundle[R], items: int, cost: int, tokens: int) -> None:
        level.count(bundle, items, cost)
        self.tokens += tokens
        self.cost += cost
        name = bundle.tenant.name
        held = self.tenant_tokens.get(name, 0) + tokens
        if held > 0:
            self.tenant_tokens[name] = held
        else:
            self.tenant_tokens.pop(name, None)

    def _ended(self, level: Level, bundle: Bundle[R]) -> None:
        """A bundle is used up. No heap of a group ever begins with one that is."""
        self._live -= 1
        level.ended(bundle)
        self._buried += 1
        key = (bundle.priority, bundle.lane, bundle.group)
        heap = self._groups[key]
        while heap and not heap[0][1].live:
            heapq.heappop(heap)
            self._buried -= 1
        if not heap:
            del self._groups[key]
        if self._buried > _SLACK + self._live:
            self._buried = 0
            for each in self._groups.values():
                each[:] = [entry for entry in each if entry[1].live]
                heapq.heapify(each)
        if len(self._arrivals) > _SLACK + 2 * self._live:
            self._arrivals = deque(each for each in self._arrivals if each.live)
        if len(self._expiries) > _SLACK + 2 * self._live:
            self._expiries = [entry for entry in self._expiries if entry[2].live]
            heapq.heapify(self._expiries)
