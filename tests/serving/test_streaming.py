"""stream_items: answers as they come, no more than a window under way, nothing left behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from rewardmesh.serving.streaming import Inbox, stream_items


async def numbers(count: int, seen: list[int] | None = None) -> AsyncIterator[int]:
    for n in range(count):
        if seen is not None:
            seen.append(n)
        yield n


async def test_answers_in_the_order_of_completion() -> None:
    gates = [asyncio.Event() for _ in range(3)]

    async def answer(n: int) -> int:
        await gates[n].wait()
        return n

    stream = stream_items(numbers(3), answer)
    for n in (2, 0, 1):
        gates[n].set()
        assert await anext(stream) == n
    assert await anext(stream, None) is None


async def test_every_request_is_answered_once() -> None:
    async def answer(n: int) -> int:
        await asyncio.sleep(0.001 * (n % 3))
        return n

    assert sorted([n async for n in stream_items(numbers(200), answer, window=7)]) == list(range(200))
    assert [n async for n in stream_items(numbers(0), answer)] == []


async def test_reading_stops_at_the_window() -> None:
    read: list[int] = []
    gate = asyncio.Event()

    async def answer(n: int) -> int:
        await gate.wait()
        return n

    stream = stream_items(numbers(100, read), answer, window=5)
    first = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0.05)
    assert len(read) <= 6, "five under way and one read ahead"
    gate.set()
    await first
    await asyncio.sleep(0.05)
    assert len(read) <= 7, "nobody reads the answers, so nobody reads on"
    await stream.aclose()


async def test_the_first_exception_ends_the_stream_and_cancels_the_rest() -> None:
    cancelled = asyncio.Event()

    async def answer(n: int) -> int:
        if n == 1:
            raise ValueError("bad item")
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return n

    with pytest.raises(ValueError, match="bad item"):
        async for _ in stream_items(numbers(3), answer):
            pass
    assert cancelled.is_set()


async def test_an_exception_of_the_source_ends_the_stream() -> None:
    async def source() -> AsyncIterator[int]:
        yield 1
        raise ValueError("torn request")

    async def answer(n: int) -> int:
        return n

    with pytest.raises(ValueError, match="torn request"):
        _ = [n async for n in stream_items(source(), answer)]


async def test_a_consumer_that_goes_cancels_what_is_under_way() -> None:
    cancelled = asyncio.Event()

    async def answer(n: int) -> int:
        try:
            await asyncio.sleep(30 if n else 0)
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return n

    stream = stream_items(numbers(2), answer)
    assert await anext(stream) == 0
    await asyncio.sleep(0.01)
    await stream.aclose()
    assert cancelled.is_set()


async def test_an_inbox_reads_only_what_it_is_asked_for() -> None:
    read: list[int] = []
    wake = asyncio.Event()
    inbox = Inbox(numbers(2, read), wake)
    assert inbox.take() is None
    await asyncio.sleep(0)
    assert read == []
    for n in range(2):
        inbox.ask()
        inbox.ask()
        await wake.wait()
        wake.clear()
        assert read == list(range(n + 1))
        assert inbox.take() == n
        assert inbox.take() is None
    assert not inbox.ended
    inbox.ask()
    await wake.wait()
    assert inbox.take() is None
    assert inbox.ended
    inbox.ask()
    await inbox.close()


async def test_an_inbox_raises_what_the_stream_raises_and_cancels_what_it_reads() -> None:
    cancelled = asyncio.Event()

    async def torn() -> AsyncIterator[int]:
        raise ValueError("torn request")
        yield 1

    async def silent() -> AsyncIterator[int]:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            cancelled.set()
            raise
        yield 1

    wake = asyncio.Event()
    inbox = Inbox(torn(), wake)
    inbox.ask()
    await wake.wait()
    with pytest.raises(ValueError, match="torn request"):
        inbox.take()
    inbox = Inbox(silent(), wake)
    inbox.ask()
    await asyncio.sleep(0.01)
    await inbox.close()
    assert cancelled.is_set()
    await inbox.close()
