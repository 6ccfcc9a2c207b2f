"""Requests over HTTP from one event loop, so many items in flight: how peers that speak JSON are asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import aiohttp
import uvloop

from benchmarks.scoring.contender import IN_FLIGHT, ContenderError, Item

TIMEOUT_S = 900.0
T = TypeVar("T")


def post_batches(
    url: str,
    items: Sequence[Item],
    size: int,
    body: Callable[[list[list[int]]], Mapping[str, Any]],
    read: Callable[[Any], list[float]],
) -> list[float]:
    """Scores of items, sent in requests of `size` token-id lists, IN_FLIGHT items at a time.

    Raises:
        ContenderError: a request failed, or a reply has another number of scores than were asked for.
    """
    requests = [[item.ids for item in items[start : start + size]] for start in range(0, len(items), size)]

    async def main() -> list[float]:
        gate = asyncio.Semaphore(max(1, IN_FLIGHT // size))
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:

            async def send(ids: list[list[int]]) -> list[float]:
                async with gate, session.post(url, json=body(ids)) as reply:
                    if reply.status != 200:
                        raise ContenderError(f"status {reply.status}: {(await reply.text())[:500]}")
                    values = read(await reply.json())
                if len(values) != len(ids):
                    raise ContenderError(f"{len(values)} scores for {len(ids)} items")
                return values

            return [value for values in await gather(send(ids) for ids in requests) for value in values]

    try:
        scores: list[float] = uvloop.run(main())
    except (aiohttp.ClientError, TimeoutError) as error:
        raise ContenderError(f"{type(error).__name__}: {error}") from error
    return scores


async def gather(calls: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Results of all, in order; the first failure cancels the others and is raised by itself."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(call) for call in calls]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]
