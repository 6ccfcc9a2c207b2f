"""Reward servers with tiny models on the loopback interface."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from rewardmesh.client import AsyncClient
from rewardmesh.reward import RewardConfig, create_server

Serve = Callable[..., Any]
"""serve(**config) -> async context manager of an AsyncClient."""


@pytest.fixture
def serve(reward_model: Path) -> Serve:
    @asynccontextmanager
    async def start(**changes: Any) -> AsyncIterator[AsyncClient]:
        settings: dict[str, Any] = {"model": str(reward_model), "name": "tiny", "drain_seconds": 2.0}
        server = await create_server(RewardConfig(**(settings | changes)))
        await server.start()
        async with AsyncExitStack() as stack:
            stack.push_async_callback(server.stop)
            yield await stack.enter_async_context(AsyncClient(server.address))

    return start


@pytest.fixture(scope="session")
def vector_model(make_model: Callable[..., Path]) -> Path:
    return make_model("classification", num_labels=3)


@pytest.fixture(scope="session")
def other_model(make_model: Callable[..., Path]) -> Path:
    """Other weights than reward_model's."""
    return make_model("classification", seed=7)
