"""Generation servers with tiny policies on the loopback interface."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from rewardmesh.client import AsyncClient
from rewardmesh.generation import GenerationConfig, create_server

Serve = Callable[..., Any]
"""serve(**config) -> async context manager of an AsyncClient."""


@pytest.fixture
def serve(causal_model: Path) -> Serve:
    @asynccontextmanager
    async def start(**changes: Any) -> AsyncIterator[AsyncClient]:
        settings: dict[str, Any] = {"model": str(causal_model), "drain_seconds": 2.0}
        server = await create_server(GenerationConfig(**(settings | changes)))
        await server.start()
        async with AsyncExitStack() as stack:
            stack.push_async_callback(server.stop)
            yield await stack.enter_async_context(AsyncClient(server.address))

    return start
