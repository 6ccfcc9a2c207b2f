"""Results in the memory of this process: least recently used go first, bounded by bytes."""

from __future__ import annotations

from cachetools import LRUCache

from rewardmesh.serving import metrics

ENTRY_BYTES = 360
"""What an entry takes besides its payload: key, object headers, places in the tables of `LRUCache`; the most that was measured."""


class MemoryCache:
    """Encoded results by key. For one thread.

    Args:
        service: label of the metric.
        capacity_bytes: most memory that entries may take, keys and bookkeeping counted; 0 keeps nothing.
    """

    def __init__(self, service: str, capacity_bytes: int) -> None:
        self._entries: LRUCache[bytes, bytes] = LRUCache(capacity_bytes, lambda payload: len(payload) + ENTRY_BYTES)
        self._gauge = metrics.CACHE_BYTES.labels(service)
        self._gauge.set(0)

    @property
    def used_bytes(self) -> int:
        """Memory taken by entries."""
        return int(self._entries.currsize)

    def get(self, key: bytes) -> bytes | None:
        """The payload of a key, which is now the most recently used; None when there is none."""
        return self._entries.get(key)

    def put(self, key: bytes, payload: bytes) -> None:
        """Keep a payload; what was not used for longest makes room. One larger than the whole cache is not kept."""
        if len(payload) + ENTRY_BYTES > self._entries.maxsize:
            return
        self._entries[key] = payload
        self._gauge.set(self._entries.currsize)

    def __len__(self) -> int:
        return len(self._entries)
