"""Remembers what came of expensive work (compilations, test runs), and lets equal work that is under way be waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from hashlib import blake2b
from typing import Any

from cachetools import LRUCache

from rewardmesh.verifier.sandbox.metrics import CACHE

KEY_BYTES = 200
"""What an entry takes beside its value, roughly."""


class Memo:
    """Values by content, the least recently used forgotten first."""

    def __init__(self, most_bytes: int) -> None:
        self._kept: LRUCache[bytes, tuple[Any, int]] = LRUCache(most_bytes, getsizeof=lambda entry: entry[1])
        self._flights: dict[bytes, asyncio.Future[Any]] = {}

    async def get(self, kind: str, parts: tuple[object, ...], make: Callable[[], Awaitable[tuple[Any, int | None]]]) -> Any:
        """The value of `make`, now or earlier, for equal parts.

        Args:
            kind: of work; a label of the metrics.
            parts: everything that decides the value, with a repr that says it all.
            make: gives the value and its size in bytes; None in its place when the value must not be kept (it still goes to those who
                wait for it now). What it raises concerns its caller only.
        """
        key = blake2b(repr((kind, *parts)).encode("utf-8", "surrogatepass"), digest_size=32).digest()
        while True:
            if (entry := self._kept.get(key)) is not None:
                CACHE.labels(kind, "hit").inc()
                return entry[0]
            flight = self._flights.get(key)
            if flight is None:
                CACHE.labels(kind, "miss").inc()
                return await self._make(key, make)
            await asyncio.wait({flight})
            if not flight.cancelled():
                CACHE.labels(kind, "flight").inc()
                return flight.result()
            # Whoever made it was cancelled or failed: make it here.

    async def _make(self, key: bytes, make: Callable[[], Awaitable[tuple[Any, int | None]]]) -> Any:
        flight = self._flights[key] = asyncio.get_running_loop().create_future()
        try:
            value, size = await make()
            flight.set_result(value)
        finally:
            del self._flights[key]
            flight.cancel()
        if size is not None and size + KEY_BYTES <= self._kept.maxsize:
            self._kept[key] = (value, size + KEY_BYTES)
        return value
