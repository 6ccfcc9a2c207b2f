"""A stream of the asyncio client: items out, results in, a bounded number under way, taken up again elsewhere when the call breaks."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Iterator
from contextlib import aclosing
from typing import Any, Generic, TypeVar, cast

from grpc import aio

from rewardmesh.client._base import remaining_s
from rewardmesh.client._converse import StreamBroken, converse
from rewardmesh.client._resume import Resumes
from rewardmesh.client._streams import Stream
from rewardmesh.client.balancing import AioBalancedChannel
from rewardmesh.client.errors import CallFailed, absence_of

T = TypeVar("T")
Q = TypeVar("Q")
A = TypeVar("A")
R = TypeVar("R")

_END: Any = object()


async def stream_items(
    channel: AioBalancedChannel,
    call: "aio.StreamStreamMultiCallable[Q, A]",
    stream: Stream[T, Q, A, R],
    items: Iterable[T] | AsyncIterable[T],
    deadline: float | None,
    metadata: tuple[tuple[str, str], ...],
) -> AsyncGenerator[R, None]:
    """One result an item, in any order. What cannot be answered in the end becomes absences; a mistake raises CallFailed."""
    source: _Ready[T] | _Drawn[T] = _Drawn(items) if isinstance(items, AsyncIterable) else _Ready(items)
    resumes = Resumes(channel, deadline)
    window = channel.options.stream_window
    room = asyncio.Event()

    async def requests() -> AsyncGenerator[Q, None]:
        yield stream.first
        for item in stream.unanswered():
            yield stream.request(item)
        while True:
            while stream.waiting >= window:
                room.clear()
                await room.wait()
            item = await source.take()
            if item is _END:
                return
            yield stream.send(item)

    try:
        while True:
            progressed = False
            running = call(timeout=remaining_s(deadline), metadata=metadata)
            try:
                async with aclosing(converse(running, requests())) as replies:
                    async for reply in replies:
                        result = stream.receive(reply)
                        progressed = True
                        room.set()
                        yield result
                stream.end()
                return
            except StreamBroken as broken:
                failure = broken.failure
                wait_s = resumes.wait_s(failure, progressed)
            if wait_s is None:
                break
            await asyncio.sleep(wait_s)
        async for result in _absent(stream, source, failure):
            yield result
    finally:
        await source.close()


async def _absent(stream: Stream[T, Q, A, R], source: "_Ready[T] | _Drawn[T]", failure: CallFailed) -> AsyncGenerator[R, None]:
    absence = absence_of(failure)
    for result in stream.give_up(absence):
        yield result
    while (item := await source.take()) is not _END:
        stream.send(item)
        for result in stream.give_up(absence):
            yield result


class _Ready(Generic[T]):
    """Items that need not be waited for."""

    def __init__(self, items: Iterable[T]) -> None:
        self._items: Iterator[T] = iter(items)

    async def take(self) -> T:
        """The next item, or `_END`."""
        return next(self._items, cast(T, _END))

    async def close(self) -> None:
        """Nothing to end."""


class _Drawn(Generic[T]):
    """Items of an asynchronous iterable. One task draws them, one at a time and only when asked: a call that breaks while it waits for an
    item must not cancel the caller's iterable, and all of it runs in one task as it would in a plain loop."""

    def __init__(self, items: AsyncIterable[T]) -> None:
        self._items = items
        self._asked = False
        self._wanted, self._there = asyncio.Event(), asyncio.Event()
        self._item: T = cast(T, _END)
        self._trouble: Exception | None = None
        self._task = asyncio.ensure_future(self._draw())

    async def take(self) -> T:
        """The next item, or `_END`; raises what the iterable raises. Cancelling loses nothing: the next call gets the item."""
        if not self._asked:
            self._asked = True
            self._wanted.set()
        await self._there.wait()
        if self._trouble is not None:
            raise self._trouble
        if self._item is not _END:
            self._asked = False
            self._there.clear()
        return self._item

    async def close(self) -> None:
        """Draw no more."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _draw(self) -> None:
        try:
            await self._want()
            async for item in self._items:
                self._item = item
                self._there.set()
                await self._want()
            self._item = cast(T, _END)
        except Exception as error:  # noqa: BLE001 - raised again by `take`
            self._trouble = error
        self._there.set()

    async def _want(self) -> None:
        await self._wanted.wait()
        self._wanted.clear()
