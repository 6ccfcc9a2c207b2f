"""Log-prob servers with tiny policies on the loopback interface."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from rewardmesh.client import AsyncClient
from rewardmesh.logprob import LogProbConfig, create_server

Serve = Callable[..., Any]
"""serve(**config) -> async context manager of an AsyncClient."""


@pytest.fixture(scope="session")
def second_policy(make_model: Callable[..., Path]) -> Path:
    """Other weights of another architecture with a shorter context."""
    return make_model("causal", "llama", seed=3, max_position_embeddings=64)


@pytest.fixture
def serve(causal_model: Path) -> Serve:
    @asynccontextmanager
    async def start(**changes: Any) -> AsyncIterator[AsyncClient]:
        settings: dict[str, Any] = {"model": str(causal_model), "drain_seconds": 2.0}
        server = await create_server(LogProbConfig(**(settings | changes)))
        await server.start()
        async with AsyncExitStack() as stack:
            stack.push_async_callback(server.stop)
            yield await stack.enter_async_context(AsyncClient(server.address))

    return start
