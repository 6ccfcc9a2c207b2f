"""Bidirectional streams: messages come in, answers go out as they are ready, and no more than a few are under way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, Generic, TypeVar

Q = TypeVar("Q")
A = TypeVar("A")


async def stream_items(requests: AsyncIterator[Q], answer: Callable[[Q], Awaitable[A]], *, window: int = 32) -> AsyncGenerator[A, None]:
    """Answer every request, in the order of completion.

    Reading stops while `window` answers are under way, which pushes back on the sender through HTTP/2 flow control. The first
    exception ends the stream; when the consumer goes, everything under way is cancelled.
    """
    under_way: set[asyncio.Task[Any]] = set()
    source = aiter(requests)
    reading: asyncio.Task[Any] | None = asyncio.ensure_future(_next(source))
    try:
        while reading or under_way:
            wanted = {*under_way, *([reading] if reading and len(under_way) < window else [])}
            done, _ = await asyncio.wait(wanted, return_when=asyncio.FIRST_COMPLETED)
            if reading and reading in done:
                done.discard(reading)
                try:
                    under_way.add(asyncio.ensure_future(_call(answer, reading.result())))
                    reading = asyncio.ensure_future(_next(source))
                except StopAsyncIteration:
                    reading = None
            for task in done:
                under_way.discard(task)
                yield task.result()
    finally:
        leftovers = [*under_way, *([reading] if reading else [])]
        for leftover in leftovers:
            leftover.cancel()
        await asyncio.gather(*leftovers, return_exceptions=True)


class Inbox(Generic[Q]):
    """Reads the requests of a stream one by one, each only when asked for, so that a handler can wait for other things at the same time.

    Args:
        requests: the stream.
        wake: set whenever a request has come, or the stream has ended or failed.
    """

    def __init__(self, requests: AsyncIterator[Q], wake: asyncio.Event) -> None:
        self._source = aiter(requests)
        self._wake = wake
        self._reading: asyncio.Task[Q] | None = None
        self.ended = False
        """Whether `take` has met the end."""

    def ask(self) -> None:
        """Read one more request in the background, unless that is being done."""
        if self._reading is None and not self.ended:
            self._reading = asyncio.ensure_future(_next(self._source))
            self._reading.add_done_callback(lambda _: self._wake.set())

    def take(self) -> Q | None:
        """The request that has come, None when there is none (yet); raises what reading raised."""
        reading = self._reading
        if reading is None or not reading.done():
            return None
        self._reading = None
        try:
            return reading.result()
        except StopAsyncIteration:
            self.ended = True
            return None

    async def close(self) -> None:
        """Read no more."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
            self._reading = None


async def _next(source: AsyncIterator[Q]) -> Q:
    return await anext(source)


async def _call(answer: Callable[[Q], Awaitable[A]], request: Q) -> A:
    return await answer(request)
