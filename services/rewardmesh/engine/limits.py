"""How often an endpoint may be asked: requests and tokens a minute, as its contract says, waited for no longer than makes sense.

A leaky bucket each (aiolimiter): a minute's worth may go at once, then as fast as it leaks. They count what this client sends; replicas
and other programs with the same key do not know of each other.
"""

from __future__ import annotations

import asyncio
import time

from aiolimiter import AsyncLimiter

from rewardmesh.serving.deadlines import wanted_until


class LimitReachedError(Exception):
    """It is not this request's turn in time.

    Attributes:
        retry_after_s: no sooner than this is there room for it.
    """

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class RateLimits:
    """Limits of one endpoint; used on one event loop.

    Args:
        requests_per_minute, tokens_per_minute: None for no limit.
        longest_wait_s: for a turn; less where the deadline of those who ask is nearer.
    """

    def __init__(self, requests_per_minute: float | None, tokens_per_minute: float | None, longest_wait_s: float) -> None:
        self._requests = AsyncLimiter(requests_per_minute) if requests_per_minute else None
        self._tokens = AsyncLimiter(tokens_per_minute) if tokens_per_minute else None
        self._longest_wait_s = longest_wait_s

    async def turn(self, tokens: int) -> None:
        """Wait for the turn of a request that reads and writes at most so many tokens.

        Raises:
            LimitReachedError: it would take too long.
        """
        until = min(time.monotonic() + self._longest_wait_s, wanted_until())
        await _acquire(self._requests, 1.0, until, "requests_per_minute")
        await _acquire(self._tokens, float(tokens), until, "tokens_per_minute")


async def _acquire(limiter: AsyncLimiter | None, amount: float, until: float, name: str) -> None:
    if limiter is None:
        return
    # A request larger than a minute's worth goes when the bucket is empty.
    amount = min(amount, limiter.max_rate)
    if limiter.has_capacity(amount):
        await limiter.acquire(amount)
        return
    try:
        async with asyncio.timeout(until - time.monotonic()):
            await limiter.acquire(amount)
    except TimeoutError:
        message = f"engine_options.{name}: {limiter.max_rate:g} are used up for longer than can be waited"
        raise LimitReachedError(message, amount / limiter.max_rate * limiter.time_period) from None
