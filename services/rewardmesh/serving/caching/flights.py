"""Computations under way, each owned by nobody and awaited by everybody who asked for it.

A flight lives as long as somebody waits for it. Whoever launched it may go or run out of time; the others are answered all the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from rewardmesh.serving.batching import Batcher, Done, Ticket, Work

P = TypeVar("P")
R = TypeVar("R")


@dataclass(eq=False)
class Flight(Generic[P, R]):
    """One item that is being computed, or looked for in the shared cache.

    Attributes:
        work: the item; its key is None when nobody else can join.
        result: set once; an exception when the item was refused before it was queued.
        waiters: calls that wait for it.
        ticket: its place in the batcher's queue; None before it is queued.
        joined: (priority, deadline) of those who came before it had a ticket.
    """

    work: Work[P]
    result: asyncio.Future[Done[R]] = field(repr=False)
    waiters: int = 0
    ticket: Ticket[R] | None = None
    joined: list[tuple[int, float]] = field(default_factory=list)


class Flights(Generic[P, R]):
    """The flights that can be joined, by key."""

    def __init__(self, batcher: Batcher[P, R]) -> None:
        self._batcher = batcher
        self._by_key: dict[bytes, Flight[P, R]] = {}

    def find(self, key: bytes | None) -> Flight[P, R] | None:
        """The flight that computes a key."""
        return None if key is None else self._by_key.get(key)

    def start(self, work: Work[P]) -> Flight[P, R]:
        """A flight for an item, which others with its key can join from now on."""
        flight: Flight[P, R] = Flight(work, asyncio.get_running_loop().create_future())
        if work.key is not None:
            self._by_key[work.key] = flight
        return flight

    def join(self, flights: Iterable[Flight[P, R]], priority: int, deadline: float) -> None:
        """Another call waits for flights: they are served as soon as the most urgent, and kept as long as the most patient wants it."""
        tickets = []
        for flight in flights:
            if flight.ticket is None:
                flight.joined.append((priority, deadline))
            else:
                tickets.append(flight.ticket)
        if tickets:
            self._batcher.hasten(tickets, priority=priority, deadline=deadline)

    def leave(self, flights: Iterable[Flight[P, R]]) -> None:
        """A call waits no longer; the items of which it was the last to wait are withdrawn."""
        unwanted = []
        for flight in flights:
            flight.waiters -= 1
            if not flight.waiters and not flight.result.done():
                self.forget(flight)
                if flight.ticket is not None:
                    unwanted.append(flight.ticket)
        if unwanted:
            self._batcher.withdraw(unwanted)

    def queued(self, flights: Iterable[Flight[P, R]], tickets: Iterable[Ticket[R]]) -> None:
        """The batcher took them."""
        joined: dict[tuple[int, float], list[Ticket[R]]] = {}
        for flight, ticket in zip(flights, tickets, strict=True):
            flight.ticket = ticket
            for urgency in flight.joined:
                joined.setdefault(urgency, []).append(ticket)
        for (priority, deadline), members in joined.items():
            self._batcher.hasten(members, priority=priority, deadline=deadline)

    def land(self, flight: Flight[P, R], done: Done[R]) -> None:
        """Answer everybody who waits."""
        self.forget(flight)
        if not flight.result.done():
            flight.result.set_result(done)

    def refuse(self, flight: Flight[P, R], error: Exception) -> None:
        """It was not queued: its launcher is told; the others try for themselves."""
        self.forget(flight)
        if not flight.result.done():
            flight.result.set_exception(error)
            flight.result.exception()  # seen, even when nobody is left to see it

    def forget(self, flight: Flight[P, R]) -> None:
        """Nobody can join it any more."""
        key = flight.work.key
        if key is not None and self._by_key.get(key) is flight:
            del self._by_key[key]

    def __len__(self) -> int:
        return len(self._by_key)
