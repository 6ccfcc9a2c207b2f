"""A verifier server inside this process, for commands that need one just for their own run."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rewardmesh.serving import Server
from rewardmesh.verifier import VerifierConfig, create_server

_START_S = 120.0


@contextmanager
def local_verifier() -> Iterator[str]:
    """Serve on the loopback while the block runs; gives the address."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="local-verifier", daemon=True)
    thread.start()
    try:
        server = asyncio.run_coroutine_threadsafe(_start(), loop).result(_START_S)
        try:
            yield server.address
        finally:
            asyncio.run_coroutine_threadsafe(server.stop(), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _start() -> Server:
    server = await create_server(VerifierConfig(host="127.0.0.1", port=0, metrics_port=0, drain_seconds=1))
    await server.start()
    return server
