"""One worker process as the pool sees it: start, exchange frames, kill."""

from __future__ import annotations

import asyncio
import json
import pickle
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from rewardmesh.verifier.worker import HEADER, Chunk, frame

LARGEST_REPLY = 2**24
READ_BYTES = 2**16


class WorkerDied(Exception):
    """The process ended (or broke the protocol) while it was being talked to."""


class WorkerProcess:
    """A running worker; made by `start`. Not shared between tasks."""

    def __init__(self, process: Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process, self._stdin, self._stdout = process, process.stdin, process.stdout
        self.done = 0
        """Samples it has answered."""
        self._unread = bytearray()

    @classmethod
    async def start(cls, memory_limit_bytes: int, packages: Sequence[str], timeout_s: float) -> WorkerProcess:
        """Start a fresh interpreter and wait until it has imported the verifiers.

        A fresh interpreter instead of a fork or `multiprocessing`: gRPC's threads do not survive forks, and `multiprocessing` would
        import the server's main module again.

        Raises:
            WorkerDied: it did not get ready within timeout_s.
        """
        arguments = ("-P", "-m", "rewardmesh.verifier.worker", str(memory_limit_bytes), *packages)
        worker = cls(await asyncio.create_subprocess_exec(sys.executable, *arguments, stdin=PIPE, stdout=PIPE))
        try:
            async with asyncio.timeout(timeout_s):
                await worker.receive()
        except TimeoutError as error:
            await worker.kill()
            raise WorkerDied(f"a worker was not ready after {timeout_s:g} s") from error
        except BaseException:
            await worker.kill()
            raise
        return worker

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """Exit status, negative for a signal; None while it runs."""
        return self._process.returncode

    async def send(self, chunk: Chunk) -> None:
        """Hand over a chunk; raises WorkerDied."""
        try:
            self._stdin.write(frame(pickle.dumps(chunk, pickle.HIGHEST_PROTOCOL)))
            await self._stdin.drain()
        except (BrokenPipeError, ConnectionResetError) as error:
            raise WorkerDied("the worker had ended before it was given work") from error

    async def receive(self) -> list[list[Any]]:
        """The replies that have come, at least one, in order; raises WorkerDied. Reading many at once makes a busy pool cheap."""
        try:
            while not (replies := self._whole_replies()):
                if not (data := await self._stdout.read(READ_BYTES)):
                    raise WorkerDied("the worker ended")
                self._unread += data
        except ConnectionResetError as error:
            raise WorkerDied("the worker ended") from error
        except ValueError as error:
            raise WorkerDied("the worker sent something that is no JSON") from error
        if not all(isinstance(reply, list) and reply for reply in replies):
            raise WorkerDied("the worker sent something that is no reply")
        return replies

    def _whole_replies(self) -> list[Any]:
        bodies, start, unread = [], 0, self._unread
        while len(unread) - start >= HEADER.size:
            (size,) = HEADER.unpack_from(unread, start)
            if size > LARGEST_REPLY:
                raise WorkerDied(f"the worker sent a reply of {size} bytes")
            end = start + HEADER.size + size
            if len(unread) < end:
                break
            bodies.append(unread[start + HEADER.size : end])
            start = end
        del unread[:start]
        replies: list[Any] = json.loads(b"[" + b",".join(bodies) + b"]")
        return replies

    async def kill(self) -> None:
        """End it at once and reap it. Safe to call twice, and when it is already dead."""
        with suppress(ProcessLookupError):
            self._process.kill()
        self._stdin.close()
        await self._process.wait()
        with suppress(BrokenPipeError, ConnectionResetError):
            await self._stdin.wait_closed()
