"""What goes into the batcher and what comes out: items of work, their tickets, and the bundles that wait."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from rewardmesh.v1 import common_pb2 as pb

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
        key: identity of the computation, for caches; None is never cached.
    """

    payload: P
    lane: Hashable
    group: Hashable
    tokens: int
    shared_tokens: int = 0
    key: bytes | None = None


@dataclass(frozen=True)
class Done(Generic[R]):
    """What came of one item: a result, or the absence that stands for it.

    Attributes:
        queue_seconds, compute_seconds: how long it waited, and how long its batch took.
        tokens_computed: tokens really computed for it, after sharing.
        cached: the result was computed before; nothing was computed for this item.
    """

    result: R | None
    absence: pb.Absence | None
    queue_seconds: float = 0.0
    compute_seconds: float = 0.0
    tokens_computed: int = 0
    cached: bool = False


class Ticket(Generic[R]):
    """An item that was accepted.

    A ticket belongs to a bundle while it waits, to none once it is computed, answered or withdrawn.

    Args:
        settle: takes the item's Done, on the event loop, once.
        future: the same for callers that hold the ticket.
    """

    __slots__ = ("_future", "arrived", "bundle", "settle", "work")

    def __init__(
        self, work: Work[Any], arrived: float, settle: Callable[[Done[R]], None], future: asyncio.Future[Done[R]] | None = None
    ) -> None:
        self.work = work
        self.arrived = arrived
        self.settle = settle
        self.bundle: Bundle[R] | None = None
        self._future = future

    @property
    def future(self) -> asyncio.Future[Done[R]]:
        """Gets the item's Done. Cancelling it keeps an item that still waits from being computed."""
        if self._future is None:
            raise RuntimeError("only tickets of `enqueue` have futures")
        return self._future

    @property
    def gone(self) -> bool:
        """Whether its caller has cancelled it."""
        return self._future is not None and self._future.cancelled()


class Bundle(Generic[R]):
    """Items that wait together: one lane, one group, and all that orders them is the same.

    Attributes:
        tenant: whom the bundle is charged to.
        order: (deadline, arrival number): first the earlier deadline (`math.inf` for none), then arrival.
        expires: monotonic time at which nobody wants the items any more.
        arrived: monotonic time of arrival.
        live: items that still wait.
        tokens: tokens they hold, before sharing.
    """

    __slots__ = (
        "_apart",
        "_shared",
        "_start",
        "arrived",
        "expires",
        "group",
        "lane",
        "live",
        "order",
        "priority",
        "tenant",
        "tickets",
        "tokens",
    )

    def __init__(
        self, tickets: list[Ticket[R]], priority: int, tenant: Any, deadline: float, expires: float, arrived: float, number: int
    ) -> None:
        work = tickets[0].work
        self.tickets = tickets
        self.lane = work.lane
        self.group = work.group
        self.priority = priority
        self.tenant = tenant
        self.order = (deadline, number)
        self.expires = expires
        self.arrived = arrived
        self.live = len(tickets)
        self.tokens = sum(ticket.work.tokens for ticket in tickets)
        self._shared = max(ticket.work.shared_tokens for ticket in tickets)
        self._apart = self.tokens - sum(ticket.work.shared_tokens for ticket in tickets)
        self._start = 0
        for ticket in tickets:
            ticket.bundle = self

    @property
    def cost(self) -> int:
        """Tokens that computing all of it at once takes, the shared prefix counted once."""
        return self._apart + self._shared if self.live else 0

    @property
    def shares(self) -> bool:
        """Whether its items have a prefix in common."""
        return self._shared > 0

    @property
    def has_deadline(self) -> bool:
        """Whether it is ordered by a deadline."""
        return self.order[0] < math.inf

    def next(self) -> Ticket[R] | None:
        """The first item that still waits."""
        while self.live:
            ticket = self.tickets[self._start]
            if ticket.bundle is self:
                return ticket
            self._start += 1
        return None

    def remove(self, ticket: Ticket[R]) -> None:
        """Take one waiting item out, to be computed or not; the owner of the queue's sums corrects them."""
        ticket.bundle = None
        self.live -= 1
        self.tokens -= ticket.work.tokens
        self._apart -= ticket.work.tokens - ticket.work.shared_tokens
        if not self.live:
            self.tickets = []  # payloads are not kept for as long as the empty bundle lies in a heap

    def waiting(self) -> list[Ticket[R]]:
        """The items that still wait, in order."""
        return [ticket for ticket in self.tickets if ticket.bundle is self]
