"""Results in a Redis that replicas share. It may be slow, dead, or full of rubbish: callers lose a moment at most, never an answer.

One MGET a call with a short timeout. A refused connection, or the second timeout in a row, opens a circuit: Redis is left alone for a few
seconds, then one call tries again. Single timeouts are forgiven because a busy event loop can cause them by itself. Writes happen in the
background and are given up under pressure; a Redis that only refuses them, because it is full or read-only, is still read.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Mapping, Sequence
from typing import TypeVar, cast
from urllib.parse import urlsplit

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from rewardmesh.serving import metrics
from rewardmesh.serving.caching.codec import CorruptValueError, frame, unframe
from rewardmesh.serving.logs import get_logger

log = get_logger(__name__)

T = TypeVar("T")

PAUSE_SECONDS = 5.0
"""How long Redis is left alone after it failed."""
FORGIVEN_TIMEOUTS = 1
_CONNECTIONS = 16
_WRITE_PATIENCE = 10  # nobody waits for a write: it may take this many timeouts
_PENDING_BYTES = 32 * 2**20


class SharedCache:
    """Framed payloads by key in Redis; must be made inside a running event loop.

    Args:
        url: redis://, rediss:// or unix:// address. ValueError when it is none.
        service: label of the metrics.
        kind: of the values, see `Codec.kind`.
        ttl_seconds: how long an entry lives.
        timeout_seconds: most time that a look-up may take.
    """

    def __init__(self, url: str, *, service: str, kind: int, ttl_seconds: float, timeout_seconds: float) -> None:
        pool = BlockingConnectionPool.from_url(url, max_connections=_CONNECTIONS, timeout=None, retry=Retry(NoBackoff(), 0))
        self._redis: Redis = Redis.from_pool(pool)
        self._where = urlsplit(url).hostname or urlsplit(url).path
        self._service = service
        self._kind = kind
        self._ttl_ms = max(int(ttl_seconds * 1e3), 1)
        self._timeout_s = timeout_seconds
        self._retry_at = 0.0
        self._open = False
        self._timeouts = 0
        self._refusals: set[str] = set()
        self._pending_bytes = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def get(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """The payloads of those keys that are there; nothing when Redis is slow or away. Never raises."""
        if not keys or not self._may_try():
            return {}
        found = await self._guarded(cast(Awaitable[list[object]], self._redis.mget(list(map(_name, keys)))), self._timeout_s)
        payloads: dict[bytes, bytes] = {}
        corrupt: list[bytes] = []
        for key, value in zip(keys, found or (), strict=False):
            if value is None:
                continue
            try:
                payloads[key] = unframe(key, self._kind, value)
            except CorruptValueError as error:
                log.warning("corrupt value in the shared cache, deleted", key=_name(key), reason=str(error))
                corrupt.append(key)
        self.discard(corrupt)
        return payloads

    def put(self, payloads: Mapping[bytes, bytes]) -> None:
        """Write payloads in the background; given up when Redis is away or cannot keep up."""
        size = sum(map(len, payloads.values()))
        if not payloads or self._paused() or self._pending_bytes + size > _PENDING_BYTES:
            return
        pipeline = self._redis.pipeline(transaction=False)
        for key, payload in payloads.items():
            pipeline.set(_name(key), frame(key, self._kind, payload), px=self._ttl_ms)
        self._pending_bytes += size
        self._background(pipeline.execute(), size)

    def discard(self, keys: Sequence[bytes]) -> None:
        """Delete entries that turned out to be corrupt, in the background; counts them."""
        if keys:
            metrics.CACHE_ERRORS.labels(self._service).inc(len(keys))
            self._background(cast(Awaitable[object], self._redis.delete(*map(_name, keys))), 0)

    async def close(self) -> None:
        """Give up what is not written yet and close the connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._redis.aclose()

    def _background(self, command: Awaitable[object], size: int) -> None:
        async def run() -> None:
            try:
                await self._guarded(command, self._timeout_s * _WRITE_PATIENCE)
            finally:
                self._pending_bytes -= size

        task = asyncio.create_task(run(), name=f"{self._service}-shared-cache")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guarded(self, command: Awaitable[T], timeout_s: float) -> T | None:
        """What Redis answers, or None after a failure, which is counted and may open the circuit."""
        try:
            async with asyncio.timeout(timeout_s):
                result = await command
        except (TimeoutError, RedisTimeoutError):
            self._timeouts += 1
            self._failed(f"no answer within {timeout_s:g} s", self._timeouts > FORGIVEN_TIMEOUTS)
        except ResponseError as error:  # it lives, but will not: full, read-only, no permission
            metrics.CACHE_ERRORS.labels(self._service).inc()
            if (kind := str(error).partition(" ")[0]) not in self._refusals:
                self._refusals.add(kind)
                log.warning("the shared cache refuses commands (said once)", host=self._where, reason=str(error))
        except (RedisError, OSError) as error:
            self._failed(f"{type(error).__name__}: {error}", True)
        else:
            self._timeouts = 0
            if self._open:
                self._open = False
                log.info("the shared cache answers again", host=self._where)
            return result
        return None

    def _failed(self, reason: str, pause: bool) -> None:
        metrics.CACHE_ERRORS.labels(self._service).inc()
        if not (pause or self._open):
            return
        self._retry_at = time.monotonic() + PAUSE_SECONDS
        if not self._open:
            self._open = True
            log.warning("the shared cache is bypassed", host=self._where, reason=reason, pause_seconds=PAUSE_SECONDS)

    def _paused(self) -> bool:
        return self._open

    def _may_try(self) -> bool:
        """Whether to ask Redis now; when the pause is over, one caller is sent ahead."""
        if not self._open:
            return True
        now = time.monotonic()
        if now < self._retry_at:
            return False
        self._retry_at = now + PAUSE_SECONDS
        return True


def _name(key: bytes) -> str:
    return f"rewardmesh:{key.hex()}"
