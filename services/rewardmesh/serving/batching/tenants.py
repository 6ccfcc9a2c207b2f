"""Fairness between the tenants of one priority class: start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996).

Every tenant has a virtual start time. The one with the least is served next, and what is computed for it, divided by its weight,
moves its start time on. A tenant that comes back from idleness starts at the class's virtual clock: it gains no credit for the time
it was away. Over any interval in which two tenants always have work, what they get differs from their weights' ratio by no more than
one bundle each. Within a tenant: earliest deadline first, then arrival.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Hashable, Mapping
from typing import Any

from rewardmesh.serving.batching.work import Bundle

AnyBundle = Bundle[Any]
_SLACK = 1024  # used-up bundles that may lie here in any case
_Heap = list[tuple[tuple[float, int], AnyBundle]]


class Tenant:
    """What waits for one tenant in one class.

    Attributes:
        start: virtual start time of what is served next.
        live: bundles that wait.
        held: bundles that lie here, used up or not.
        cost_timed, cost_untimed: tokens to compute, after sharing, of bundles with and without a deadline.
    """

    __slots__ = ("cost_timed", "cost_untimed", "heaps", "held", "live", "name", "start", "waits", "weight")

    def __init__(self, name: str, weight: float) -> None:
        self.name = name
        self.weight = weight
        self.start = 0.0
        self.live = 0
        self.held = 0
        self.cost_timed = 0
        self.cost_untimed = 0
        self.heaps: dict[Hashable, _Heap] = {}
        self.waits = False  # whether it stands in its level's order

    @property
    def cost(self) -> int:
        """Tokens to compute, after sharing."""
        return self.cost_timed + self.cost_untimed

    def add(self, bundle: AnyBundle) -> None:
        """Let a bundle wait, or wait again."""
        heapq.heappush(self.heaps.setdefault(bundle.lane, []), (bundle.order, bundle))
        self.held += 1

    def best(self, *lanes: Hashable) -> AnyBundle | None:
        """The first bundle, of the given lane or of all."""
        found: AnyBundle | None = None
        for lane in lanes or tuple(self.heaps):
            heap = self.heaps.get(lane)
            while heap and not heap[0][1].live:
                heapq.heappop(heap)
                self.held -= 1
            if heap:
                if found is None or heap[0][0] < found.order:
                    found = heap[0][1]
            elif heap is not None:
                del self.heaps[lane]  # lets go of a model version that nobody asks for
        return found

    def pop(self, bundle: AnyBundle) -> None:
        """Take the first bundle of a lane off its heap, to be added again later."""
        heapq.heappop(self.heaps[bundle.lane])
        self.held -= 1

    def ended(self) -> None:
        """One of its bundles is used up; it falls out when it comes up, or when more than half of what lies here is empty."""
        self.live -= 1
        if self.live and self.held <= _SLACK + 2 * self.live:
            return
        self.heaps = {lane: kept for lane, heap in self.heaps.items() if (kept := [entry for entry in heap if entry[1].live])}
        for heap in self.heaps.values():
            heapq.heapify(heap)
        self.held = sum(map(len, self.heaps.values()))


class Level:
    """One priority class."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        self.tenants: dict[str, Tenant] = {}
        self.live = 0
        self.items = 0
        self.cost = 0
        self._weights = weights
        self._clock = 0.0
        self._order: list[tuple[float, int, Tenant]] = []
        self._numbers = itertools.count()

    def tenant(self, name: str) -> Tenant:
        """A tenant by name."""
        found = self.tenants.get(name)
        if found is None:
            found = self.tenants[name] = Tenant(name, self.weight(name))
        return found

    def weight(self, name: str) -> float:
        """Configured weight, 1 by default."""
        return self._weights.get(name, 1.0)

    def add(self, bundle: AnyBundle) -> None:
        """A new bundle waits."""
        tenant: Tenant = bundle.tenant
        if not tenant.live:
            tenant.start = max(tenant.start, self._clock)
        tenant.add(bundle)
        tenant.live += 1
        self.live += 1
        self.stand(tenant)

    def count(self, bundle: AnyBundle, items: int, cost: int) -> None:
        """Correct the sums by what came or went."""
        self.items += items
        self.cost += cost
        if bundle.has_deadline:
            bundle.tenant.cost_timed += cost
        else:
            bundle.tenant.cost_untimed += cost

    def ended(self, bundle: AnyBundle) -> None:
        """A bundle has no more items that wait."""
        bundle.tenant.ended()
        self.live -= 1
        if not self.live:  # the end of a busy period: all start again as equals
            self.tenants.clear()
            self._order.clear()
            self._clock = 0.0

    def stand(self, tenant: Tenant) -> None:
        """Put a tenant that has work into the order."""
        if tenant.live and not tenant.waits:
            tenant.waits = True
            heapq.heappush(self._order, (tenant.start, next(self._numbers), tenant))

    def next(self) -> Tenant | None:
        """Take the tenant that is served next out of the order; `stand` puts it back."""
        while self._order:
            start, _, tenant = heapq.heappop(self._order)
            tenant.waits = False
            if not tenant.live:
                if tenant.start <= self._clock:
                    self.tenants.pop(tenant.name, None)
            elif start < tenant.start:
                self.stand(tenant)  # it was charged while it stood here
            else:
                return tenant
        return None

    def charge(self, tenant: Tenant, cost: int, *, turn: bool) -> None:
        """Account for what is computed for a tenant; `turn`: because it was its turn, not because it rides along."""
        if turn:
            self._clock = max(self._clock, tenant.start)
        tenant.start += cost / tenant.weight

    def cost_before(self, name: str, timed: bool, cost: int) -> float:
        """Tokens that are computed before a newcomer of `cost` tokens, by fair shares."""
        own = self.tenants.get(name)
        ahead = 0 if own is None else own.cost_timed if timed else own.cost
        rate = (ahead + cost) / self.weight(name)
        return ahead + sum(min(other.cost, rate * other.weight) for other in self.tenants.values() if other is not own)
