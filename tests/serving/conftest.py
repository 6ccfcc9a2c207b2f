"""A toy server in this process, and toy servers as processes of their own."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import toy_server
from rewardmesh.client import AsyncClient
from rewardmesh.serving import Server


@dataclass
class Toy:
    """A running toy server with a client of it."""

    server: Server
    servicer: toy_server.ToyServicer
    client: AsyncClient


@asynccontextmanager
async def running(**config: Any) -> AsyncIterator[Toy]:
    settings = toy_server.ToyConfig(**({"drain_seconds": 2.0} | config))
    servicer = toy_server.ToyServicer(settings)
    server = toy_server.toy_server(settings, servicer)
    await server.start()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(server.stop)
        yield Toy(server, servicer, await stack.enter_async_context(AsyncClient(server.address)))


ToyMaker = Callable[..., Any]
"""run_toy(**config) -> async context manager of a Toy."""


@pytest.fixture
def run_toy() -> ToyMaker:
    return running


@pytest.fixture
async def toy() -> AsyncIterator[Toy]:
    async with running() as one:
        yield one


@dataclass
class ToyProcess:
    """A toy server in its own process; its log lines are JSON."""

    process: asyncio.subprocess.Process
    lines: list[dict[str, Any]]
    address: str = ""

    async def wait_for(self, event: str) -> dict[str, Any]:
        """Read log lines up to an event."""
        assert self.process.stderr
        while True:
            text = await asyncio.wait_for(self.process.stderr.readline(), 30)
            assert text, f"the process ended without logging {event!r}: {self.lines}"
            self.lines.append(json.loads(text))
            if self.lines[-1]["event"] == event:
                return self.lines[-1]

    async def terminate(self) -> int:
        """SIGTERM, then wait; returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return await self.finished()

    async def finished(self) -> int:
        """Read what is left of the log and return the exit code."""
        assert self.process.stderr
        rest = await asyncio.wait_for(self.process.stderr.read(), 30)
        self.lines += [json.loads(line) for line in rest.splitlines()]
        return await asyncio.wait_for(self.process.wait(), 30)


Spawn = Callable[..., Coroutine[Any, Any, ToyProcess]]
"""await spawn("--drain-seconds", "5")"""


@pytest.fixture
async def spawn() -> AsyncIterator[Spawn]:
    processes = []

    async def start(*flags: str) -> ToyProcess:
        script = Path(toy_server.__file__)
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(script), "--log-format", "json", *flags, stderr=asyncio.subprocess.PIPE
        )
        one = ToyProcess(process, [])
        processes.append(process)
        one.address = (await one.wait_for("serving"))["address"]
        return one

    yield start
    for process in processes:
        if process.returncode is None:
            process.kill()
            await process.wait()
