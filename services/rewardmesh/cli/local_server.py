"""A server inside this process, for commands that need one just for their own run."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rewardmesh.serving import Server

_START_S = 300.0


@contextmanager
def local_server(create: Callable[[], Awaitable[Server]]) -> Iterator[str]:
    """Serve on the loopback, in a thread of its own, while the block runs; gives the address."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="local-server", daemon=True)
    thread.start()
    try:
        server = asyncio.run_coroutine_threadsafe(_start(create), loop).result(_START_S)
        try:
            yield server.address
        finally:
            asyncio.run_coroutine_threadsafe(server.stop(), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _start(create: Callable[[], Awaitable[Server]]) -> Server:
    server = await create()
    await server.start()
    return server
