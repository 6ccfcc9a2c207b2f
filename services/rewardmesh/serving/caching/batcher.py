"""A batcher that computes nothing twice: results kept in memory, a shared Redis, and computations under way that others join.

It stands in front of a `Batcher` and takes the same calls. An item with a key is looked up in memory, then joins a computation of the
same key if one is under way, then is looked up in Redis when one is configured, then is computed. Absences and results that are not
finite are never kept. A computation belongs to no caller (see `flights`): each waits by its own deadline.

What a kept result equals: without `batch_invariant` a result may differ by rounding noise from what another batch would have given, and
so may a kept one. With it, a result depends on the group of the call it was computed in and on nothing else, so the keys cover
the whole group: a kept result is equal to the bit to what would be computed (in a shared Redis: by equal machines and libraries).
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from rewardmesh.serving import metrics
from rewardmesh.serving.batching import Batcher, Done, Work
from rewardmesh.serving.caching.call import Call
from rewardmesh.serving.caching.codec import Codec, CorruptValueError
from rewardmesh.serving.caching.flights import Flight, Flights
from rewardmesh.serving.caching.groups import whole_groups, with_unit_keys
from rewardmesh.serving.caching.memory import MemoryCache
from rewardmesh.serving.caching.shared import SharedCache
from rewardmesh.serving.errors import CallError
from rewardmesh.serving.logs import get_logger

log = get_logger(__name__)

P = TypeVar("P")
R = TypeVar("R")
T = TypeVar("T")


@dataclass(frozen=True)
class CacheSettings:
    """Where results are kept.

    Attributes:
        memory_bytes: bound of the memory of this process; 0 keeps none there.
        url: Redis that replicas share; None for none.
        ttl_seconds: how long Redis keeps a result.
        timeout_seconds: most time that a look-up in Redis may take.
    """

    memory_bytes: int = 64 * 2**20
    url: str | None = None
    ttl_seconds: float = 86400.0
    timeout_seconds: float = 0.05


class CachingBatcher(Generic[P, R]):
    """The calls of a `Batcher`, answered from what is known where possible; must be made inside a running event loop.

    Args:
        batcher: computes what is not known; closed with this object.
        codec: of the results.
        settings: where results are kept.
        service: label of the metrics.
        batch_invariant: as the batcher's; groups of a call are then looked up and computed whole.
    """

    def __init__(
        self, batcher: Batcher[P, R], codec: Codec[R], settings: CacheSettings, *, service: str, batch_invariant: bool = False
    ) -> None:
        self._batcher = batcher
        self._codec = codec
        self._service = service
        self._invariant = batch_invariant
        self._memory = MemoryCache(service, settings.memory_bytes)
        self._shared: SharedCache | None = None
        if settings.url:
            self._shared = SharedCache(
                settings.url,
                service=service,
                kind=codec.kind,
                ttl_seconds=settings.ttl_seconds,
                timeout_seconds=settings.timeout_seconds,
            )
        self._flights: Flights[P, R] = Flights(batcher)
        self._launches: set[asyncio.Task[None]] = set()
        self._to_share: dict[bytes, bytes] = {}
        self._hits = {tier: metrics.CACHE_HITS.labels(service, tier) for tier in ("memory", "redis", "flight")}
        self._misses = metrics.CACHE_MISSES.labels(service)

    def load(self) -> tuple[int, float]:
        """See `Batcher.load`."""
        return self._batcher.load()

    def check(self, *, priority: int = 1, timeout_s: float | None = None, tenant: str = "") -> None:
        """See `Batcher.check`."""
        self._batcher.check(priority=priority, timeout_s=timeout_s, tenant=tenant)

    async def run(self, job: Callable[[], T]) -> T:
        """See `Batcher.run`."""
        return await self._batcher.run(job)

    async def close(self) -> None:
        """Close the batcher, which answers all who wait, then the shared cache."""
        await self._batcher.close()
        await asyncio.gather(*self._launches, return_exceptions=True)
        if self._shared:
            await self._shared.close()

    async def submit(
        self, works: Sequence[Work[P]], *, priority: int = 1, timeout_s: float | None = None, tenant: str = ""
    ) -> list[Done[R]]:
        """See `Batcher.submit`. Items that were not computed for this call are marked `cached` and cost no tokens."""
        began = time.monotonic()
        deadline = math.inf if timeout_s is None else began + timeout_s
        keyed = with_unit_keys(works) if self._invariant else works
        answers: dict[int, Done[R]] = {}
        rest = list(range(len(works)))
        while rest:
            call = Call[P, R](priority, deadline, tenant)
            try:
                units = whole_groups(keyed, rest) if self._invariant else ((index,) for index in rest)
                for unit in units:
                    self._board(call, keyed, unit, answers)
                self._flights.join(call.joined, priority, deadline)
                self._launch(call)
                await call.settled()
                rest = call.collect(answers, time.monotonic() - began)
            finally:
                self._flights.leave(call.awaited)
        return [answers[index] for index in range(len(works))]

    def _board(self, call: Call[P, R], works: Sequence[Work[P]], unit: Sequence[int], answers: dict[int, Done[R]]) -> None:
        """Find each item of a unit in memory or in the air; when one is nowhere, start flights for all of them."""
        found = [self._recall(works[index].key) or self._flights.find(works[index].key) for index in unit]
        if any(each is None for each in found):
            started: dict[bytes, Flight[P, R]] = {}
            for position, index in enumerate(unit):
                key = works[index].key
                flight = started.get(key) if key is not None else None
                if flight is None:
                    flight = self._flights.start(works[index])
                    call.launched[flight] = index
                    if key is not None:
                        started[key] = flight
                found[position] = flight
        for index, each in zip(unit, found, strict=True):
            if isinstance(each, Flight):
                self._await(call, each, index)
            elif each is not None:
                answers[index] = each
                self._hits["memory"].inc()

    def _await(self, call: Call[P, R], flight: Flight[P, R], index: int) -> None:
        members = call.awaited.setdefault(flight, [])
        if not members:
            flight.waiters += 1
            if flight not in call.launched:
                call.joined.append(flight)
        members.append(index)
        if call.launched.get(flight) != index:
            self._hits["flight"].inc()

    def _launch(self, call: Call[P, R]) -> None:
        """Get the new flights off the ground: by way of Redis, or straight into the queue (raises what `Batcher.submit` raises)."""
        flights = list(call.launched)
        if not flights:
            return
        if self._shared is None:
            try:
                self._enqueue(call, flights)
            except CallError as error:
                for flight in flights:
                    self._flights.refuse(flight, error)
                raise
            return
        task = asyncio.create_task(self._look_up(call, flights, self._shared), name=f"{self._service}-look-up")
        self._launches.add(task)
        task.add_done_callback(self._launches.discard)

    async def _look_up(self, call: Call[P, R], flights: Sequence[Flight[P, R]], shared: SharedCache) -> None:
        try:
            payloads = await shared.get([flight.work.key for flight in flights if flight.work.key is not None])
            values = self._decode(payloads, shared)
            missing = [flight for flight in flights if flight.work.key is None or flight.work.key not in values]
            if self._invariant:  # a group is computed whole or not at all
                incomplete = {(flight.work.lane, flight.work.group) for flight in missing}
                missing = [flight for flight in flights if (flight.work.lane, flight.work.group) in incomplete]
            wanted = set(missing)
            for flight in flights:
                key = flight.work.key
                if flight not in wanted and key is not None:
                    self._memory.put(key, payloads[key])
                    self._hits["redis"].inc()
                    self._flights.land(flight, Done(values[key], None, cached=True))
            self._enqueue(call, [flight for flight in missing if flight.waiters])
        except CallError as error:
            for flight in flights:
                self._flights.refuse(flight, error)
        except Exception as error:
            log.exception("look-up failed")
            for flight in flights:
                self._flights.refuse(flight, error)

    def _enqueue(self, call: Call[P, R], flights: Sequence[Flight[P, R]]) -> None:
        if not flights:
            return
        timeout_s = None if call.deadline == math.inf else call.deadline - time.monotonic()
        works = [flight.work for flight in flights]
        tickets = self._batcher.enqueue(works, priority=call.priority, timeout_s=timeout_s, tenant=call.tenant)
        self._misses.inc(sum(work.key is not None for work in works))
        self._flights.queued(flights, tickets)
        for flight, ticket in zip(flights, tickets, strict=True):
            ticket.future.add_done_callback(partial(self._computed, flight))

    def _computed(self, flight: Flight[P, R], future: asyncio.Future[Done[R]]) -> None:
        if future.cancelled():  # withdrawn: nobody waits
            return
        done = future.result()
        self._flights.land(flight, done)  # first of all: whatever happens to the cache, those who wait are answered
        key = flight.work.key
        payload = self._codec.encode(done.result) if key is not None and done.result is not None and done.absence is None else None
        if key is not None and payload is not None:
            self._memory.put(key, payload)
            if self._shared:
                if not self._to_share:  # the rest of the batch follows in this turn of the loop: one write for all
                    asyncio.get_running_loop().call_soon(self._share, self._shared)
                self._to_share[key] = payload

    def _share(self, shared: SharedCache) -> None:
        payloads, self._to_share = self._to_share, {}
        shared.put(payloads)

    def _recall(self, key: bytes | None) -> Done[R] | None:
        payload = None if key is None else self._memory.get(key)
        return None if payload is None else Done(self._codec.decode(payload), None, cached=True)

    def _decode(self, payloads: dict[bytes, bytes], shared: SharedCache) -> dict[bytes, R]:
        values: dict[bytes, R] = {}
        corrupt = []
        for key, payload in payloads.items():
            try:
                values[key] = self._codec.decode(payload)
            except CorruptValueError as error:
                log.warning("value in the shared cache cannot be read, deleted", reason=str(error))
                corrupt.append(key)
        shared.discard(corrupt)
        return values
