"""uvicorn in the event loop of the gRPC server, with our life cycle instead of its own: no signals, no logs, a drain that we time."""

from __future__ import annotations

import asyncio
import logging
import math
import socket
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import uvicorn

from rewardmesh.serving.logs import get_logger

log = get_logger(__name__)

KEEP_ALIVE_SECONDS = 75
"""Idle connections are kept this long, longer than load balancers keep theirs (usually 60 s), so that none is closed under a request."""


class HttpListener:
    """Serves an ASGI application on one address.

    Args:
        port: 0 picks a free one; `address` says which.
        drain_seconds: longest time requests may take after `begin_stop`.
    """

    def __init__(self, app: Any, *, host: str, port: int, drain_seconds: float) -> None:
        self._host = host
        self._port = port
        logging.getLogger("uvicorn").setLevel(logging.WARNING)
        config = uvicorn.Config(
            app,
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=math.ceil(drain_seconds),
        )
        self._server = _Server(config)
        self._serving: asyncio.Task[None] | None = None
        self.address = ""

    async def start(self) -> None:
        """Bind and accept requests. Raises OSError when the address is taken."""
        listening = _bind(self._host, self._port)
        self.address = f"{self._host}:{listening.getsockname()[1]}"
        self._serving = asyncio.create_task(self._server.serve(sockets=[listening]))
        ready = asyncio.create_task(self._server.ready.wait())
        await asyncio.wait((self._serving, ready), return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if self._serving.done():
            await self._serving  # raises what kept it from starting
        log.info("serving http", address=self.address)

    def begin_stop(self) -> None:
        """Accept nothing more, close idle connections; requests under way are finished. Returns at once."""
        self._server.should_exit = True

    async def stopped(self) -> None:
        """Drain: wait until all requests are finished, or were cancelled because it took too long. Safe to call twice."""
        self.begin_stop()
        if self._serving is not None:
            await self._serving


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    async def startup(self, sockets: Sequence[socket.socket] | None = None) -> None:
        await super().startup(list(sockets or ()))
        self.ready.set()

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """SIGTERM is the gRPC server's business."""
        yield


def _bind(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.setblocking(False)
    except OSError as error:
        listening.close()
        raise OSError(error.errno, f"cannot serve HTTP on {host}:{port}: {error.strerror}") from error
    return listening
