"""Sixteen callers ask for the same item at once: how often it is computed."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any

import uvloop

from benchmarks.scoring.contender import ContenderError, Item, Setup
from benchmarks.scoring.load import gather
from benchmarks.scoring.ours import Ours, samples
from rewardmesh.client import AsyncClient, Score

CALLERS = 16


def measure_single_flight(setup: Setup, variant: Mapping[str, str], item: Item) -> dict[str, Any]:
    """Ask with 16 clients, each with a connection of its own; the server keeps results, as it does unless told otherwise.

    Returns:
        {"callers", "computed": callers whose reply cost tokens, "cached", "tokens_read": of one item, "tokens_computed": of all replies}.
    """
    server = Ours(keep_results=True)
    try:
        server.start(setup, variant)
        scores = uvloop.run(_ask(server.address, item))
    finally:
        server.stop()
    if len({score.value for score in scores}) != 1:
        raise ContenderError("callers of one item got different scores")
    return {
        "callers": CALLERS,
        "computed": sum(score.provenance.tokens_computed > 0 for score in scores),
        "cached": sum(score.provenance.cached for score in scores),
        "tokens_read": max(score.provenance.tokens_read for score in scores),
        "tokens_computed": sum(score.provenance.tokens_computed for score in scores),
    }


async def _ask(address: str, item: Item) -> list[Score]:
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(AsyncClient(address, timeout_s=120.0)) for _ in range(CALLERS)]
        for client in clients:  # connected before, so that the calls arrive together
            await client.health()
        replies = await gather(client.score(samples([item], "same")) for client in clients)
    for (score,) in replies:
        if score.value is None:
            raise ContenderError(f"a caller got no score: {score.absence}")
    return [reply[0] for reply in replies]
