"""A real redis-server on a free port of the loopback interface."""

from __future__ import annotations

import asyncio
import random
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from subprocess import DEVNULL, Popen

import pytest


class RedisProcess:
    """One redis-server that keeps nothing on disk."""

    def __init__(self, directory: Path) -> None:
        self.port = _free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._directory = directory
        self.start()

    def start(self) -> None:
        """Start (again) with nothing in it; returns when it answers."""
        flags = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(self._directory)]
        self.process = Popen(["redis-server", *flags], stdout=DEVNULL, stderr=DEVNULL)
        until = time.monotonic() + 20
        while b"PONG" not in self.ask(b"PING"):
            assert time.monotonic() < until, "redis-server does not answer"
            assert self.process.poll() is None, "redis-server ended"
            time.sleep(0.02)

    def ask(self, line: bytes) -> bytes:
        """The reply to one inline command; b"" when nobody listens."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
                connection.sendall(line + b"\r\n")
                return connection.recv(65536)
        except ConnectionError:
            return b""

    async def keys(self) -> int:
        """How many keys there are."""
        reply = await asyncio.to_thread(self.ask, b"DBSIZE")
        return int(reply.strip().removeprefix(b":"))

    async def holds(self, count: int) -> None:
        """Wait until that many keys have been written; servers do it in the background."""
        for _ in range(1000):
            if await self.keys() == count:
                return
            await asyncio.sleep(0.01)
        raise AssertionError(f"redis holds {await self.keys()} keys, not {count}")

    def kill(self) -> None:
        """End it without a word."""
        self.process.kill()
        self.process.wait(10)

    def freeze(self) -> None:
        """It keeps its connections and answers nothing."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on where it was."""
        self.process.send_signal(signal.SIGCONT)


def _free_port() -> int:
    """A port that no outgoing connection is given while the server is down between two starts."""
    for _ in range(100):
        port = random.randrange(15000, 32000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise OSError("no free port between 15000 and 32000")


@contextmanager
def redis_process(directory: Path) -> Iterator[RedisProcess]:
    """Run one for the length of a test; the test is skipped where the program is missing."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed (Debian: apt-get install redis-server)")
    one = RedisProcess(directory)
    try:
        yield one
    finally:
        one.kill()
