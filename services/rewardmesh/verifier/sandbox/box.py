"""One sandbox as the server sees it: start, ask, watch, kill.

While a program runs, all processes of the sandbox are looked at together every few milliseconds; a program that is beyond a limit of
`Limits` loses the whole sandbox. What the agent inside enforces on its own (wall time, output, the kernel's limits of each process) only
saves the sandbox for the next test: nothing relies on it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from contextlib import suppress
from subprocess import Popen
from typing import Any

from rewardmesh.serving.logs import get_logger
from rewardmesh.verifier.sandbox.inside import frames
from rewardmesh.verifier.sandbox.limits import Ending, Limits, SandboxError
from rewardmesh.verifier.sandbox.runtime import Runtime
from rewardmesh.verifier.sandbox.usage import Usage, host_out_of_memory, shared_once, usage_of

log = get_logger(__name__)

WATCH_S = 0.02
GRACE_S = 0.5
"""Wall and CPU time beyond its limits that a program gets for the agent to end it and report."""
START_TIMEOUT_S = 20.0
END_TIMEOUT_S = 5.0

Answer = tuple[dict[str, Any], list[bytes]]


class Ended(Exception):
    """A program has cost its sandbox: it is over, and `ending` says why."""

    def __init__(self, ending: Ending, detail: str) -> None:
        super().__init__(detail)
        self.ending = ending
        self.detail = detail


class Box:
    """A started sandbox; made by `start`. Not shared between tasks."""

    def __init__(self, runtime: Runtime, process: Popen[bytes], streams: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
        self._runtime = runtime
        self._process = process
        self._reader, self._writer = streams
        self._exited = asyncio.Event()
        self._pidfd = os.pidfd_open(process.pid)
        asyncio.get_running_loop().add_reader(self._pidfd, self._reap)
        self._out_of_memory = host_out_of_memory()
        self._idle = Usage()
        """What the sandbox itself uses."""
        self._begun: Usage | None = None
        self._insiders: list[int] = []
        """Descriptors of the processes that the runtime has inside. The first process of a namespace ends after all others."""
        self._closing: asyncio.Task[None] | None = None
        self.usable = True

    @classmethod
    async def start(cls, runtime: Runtime, *, compiler: bool = False) -> Box:
        """Start a sandbox (see `Runtime.start`) and wait for its agent; raises SandboxError with what the runtime had to say."""
        ours, theirs = socket.socketpair()
        errors = os.memfd_create("sandbox-errors", os.MFD_CLOEXEC)
        try:
            process = runtime.start(theirs.fileno(), errors, compiler=compiler)
            theirs.close()
            box = cls(runtime, process, await asyncio.open_connection(sock=ours))
            try:
                async with asyncio.timeout(START_TIMEOUT_S):
                    header, _ = await box._receive()
                if header.get("op") != "ready":
                    raise ValueError(f"the agent began with {header.get('op')!r:.50}")
                box._know_insiders()
            except (TimeoutError, asyncio.IncompleteReadError, ConnectionError, ValueError) as error:
                await box.close()
                os.lseek(errors, 0, os.SEEK_SET)
                words = os.read(errors, 1000).decode("utf-8", "replace").strip()
                raise SandboxError(f"{runtime.name} cannot start a sandbox: {words or type(error).__name__}") from error
            except BaseException:
                await box.close()
                raise
            return box
        finally:
            os.close(errors)
            theirs.close()

    @property
    def pid(self) -> int:
        """Process id of the runtime outside."""
        return self._process.pid

    async def ask(self, header: dict[str, Any], *blobs: bytes, limits: Limits, wall_s: float | None = None) -> Answer:
        """One request and its answer, with the sandbox watched meanwhile.

        Args:
            header, blobs: see `inside.agent`.
            limits: of the sandbox as a whole.
            wall_s: seconds the answer may take, in place of the limit and its grace.

        Raises:
            Ended: the program is beyond a limit, or has broken its sandbox; the sandbox is closed.
            SandboxError: the sandbox broke for another reason.
        """
        deadline = time.monotonic() + (limits.wall_s + GRACE_S if wall_s is None else wall_s)
        self._begun = None
        exchange = asyncio.create_task(self._exchange(frames.pack(header, *blobs)))
        try:
            while True:
                done, _ = await asyncio.wait({exchange}, timeout=min(WATCH_S, max(0.0, deadline - time.monotonic())))
                if done:
                    return exchange.result()
                if time.monotonic() >= deadline:
                    raise Ended(Ending.WALL, f"took longer than {limits.wall_s:g} s")
                self._watch(limits)
        except (asyncio.IncompleteReadError, ConnectionError, ValueError) as error:
            lost = await self._lost(error)
            await self.close()
            raise lost from error
        except BaseException:
            # Beyond a limit, or nobody waits any more.
            await self.close()
            raise
        finally:
            exchange.cancel()
            with suppress(asyncio.CancelledError, asyncio.IncompleteReadError, ConnectionError, ValueError):
                await exchange

    async def close(self) -> None:
        """Kill everything inside and reap it. Safe to call twice."""
        self.usable = False
        if self._closing is None:
            self._closing = asyncio.create_task(self._end())
        # Whoever is cancelled meanwhile does not stop it.
        await asyncio.shield(self._closing)

    async def _end(self) -> None:
        if not self._exited.is_set():
            # Its group too: what a runtime has begun and not yet tied to itself.
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._writer.close()
        await self._exited.wait()
        deadline = asyncio.get_running_loop().time() + END_TIMEOUT_S
        for number in self._insiders:
            try:
                async with asyncio.timeout_at(deadline):
                    await _readable(number)
            except TimeoutError:
                log.error("processes of a sandbox outlive it", runtime=self._runtime.name, pids=self._idle.pids)
            os.close(number)

    def _know_insiders(self) -> None:
        self._idle = usage_of(self._process.pid)
        for pid in self._idle.pids:
            if pid != self._process.pid:
                with suppress(ProcessLookupError):
                    self._insiders.append(os.pidfd_open(pid))

    def _reap(self) -> None:
        if self._process.poll() is None:
            return
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        self.usable = False
        self._runtime.ended(self._process)
        self._exited.set()

    def _watch(self, limits: Limits) -> None:
        usage = usage_of(self._process.pid)
        self._begun = self._begun or usage
        if usage.tasks - self._idle.tasks > limits.processes + self._runtime.spare_tasks:
            raise Ended(Ending.PROCESSES, f"more than {limits.processes} processes and threads")
        if usage.cpu_s - self._begun.cpu_s > limits.cpu_s + GRACE_S:
            raise Ended(Ending.CPU, f"more than {limits.cpu_s:g} s of processor time")
        most = limits.memory_bytes + self._idle.memory_bytes
        if usage.memory_bytes > most and shared_once(usage) > most:
            raise Ended(Ending.MEMORY, f"more than {limits.memory_bytes} bytes of memory")

    async def _lost(self, error: Exception) -> Exception:
        """Who is to blame that the agent is gone or talks nonsense."""
        if host_out_of_memory() != self._out_of_memory:
            return SandboxError("the host ran out of memory while the sandbox ran")
        if not isinstance(error, ValueError):
            with suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._exited.wait()
            code = self._process.returncode
            if code is not None and code < 0:
                return SandboxError(f"the sandbox was killed from outside by signal {-code}")
        return Ended(Ending.LOST, "the program ended the sandbox it ran in")

    async def _exchange(self, frame: bytes) -> Answer:
        self._writer.write(frame)
        await self._writer.drain()
        return await self._receive()

    async def _receive(self) -> Answer:
        size = int.from_bytes(await self._reader.readexactly(frames.SIZE_BYTES), "little")
        if size > frames.LARGEST_HEADER:
            raise ValueError(f"a header of {size} bytes")
        header, sizes = frames.header_of(await self._reader.readexactly(size))
        return header, [await self._reader.readexactly(length) for length in sizes]


async def _readable(number: int) -> None:
    """Wait until a descriptor can be read."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(number, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(number)
