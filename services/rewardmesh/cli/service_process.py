"""One supervised service: its process, its health, its restarts."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from asyncio.subprocess import DEVNULL, STDOUT, Process
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

from rewardmesh.cli.mesh_file import RestartPolicy
from rewardmesh.client import AsyncClient, CallFailed
from rewardmesh.serving.logs import get_logger

log = get_logger(__name__)

State = Literal["STARTING", "SERVING", "NOT_SERVING", "UNREACHABLE", "RESTARTING", "DRAINING", "FAILED", "STOPPED"]

LONGEST_BACKOFF_S = 30.0
BAD_CONFIGURATION = 2
"""Exit code of a server that no restart can mend."""


class ServiceFailed(Exception):
    """A service that is not started again; the message says why, with the last lines of its log."""


class ServiceProcess:
    """Keeps one service running: `run` until it is told to `stop`.

    Args:
        arguments: of the `rewardmesh` command.
        address: where its health is asked for.
        on_change: called after every change of `state` or `pid`.
    """

    def __init__(
        self, name: str, arguments: Sequence[str], address: str, log_path: Path, policy: RestartPolicy, on_change: Callable[[], None]
    ) -> None:
        self.name = name
        self.address = address
        self.log_path = log_path
        self.state: State = "STARTING"
        self.restarts = 0
        self._arguments = arguments
        self._policy = policy
        self._on_change = on_change
        self._process: Process | None = None
        self._reported: tuple[State, int | None] | None = None
        self._stopping = asyncio.Event()
        self._over = asyncio.Event()

    @property
    def pid(self) -> int | None:
        """Process id; None while there is no process."""
        return self._process.pid if self._process and self._process.returncode is None else None

    async def run(self) -> None:
        """Start the process, and again when it crashes.

        Raises:
            ServiceFailed: it crashed too often, or its configuration is refused.
        """
        try:
            await self._lives()
        finally:
            self._over.set()

    async def stop(self, grace_s: float) -> None:
        """End `run`: SIGTERM, and SIGKILL to the whole process group when it still lives after `grace_s`."""
        self._stopping.set()
        if self._process and self.pid:
            with suppress(ProcessLookupError):
                self._process.terminate()
            self._change("DRAINING")
        try:
            await asyncio.wait_for(self._over.wait(), grace_s)
        except TimeoutError:
            log.warning("did not drain in time, killed", name=self.name, seconds=grace_s)
        finally:
            self.kill()

    def kill(self) -> None:
        """SIGKILL to the process and what it started."""
        self._stopping.set()
        if self.pid:
            _kill_group(self.pid)

    def log_tail(self, lines: int = 15) -> str:
        """The last lines of the service's log."""
        try:
            with self.log_path.open("rb") as file:
                file.seek(max(0, self.log_path.stat().st_size - 16_384))
                return "\n".join(file.read().decode("utf-8", "replace").splitlines()[-lines:])
        except OSError as error:
            return f"(no log: {error})"

    async def _lives(self) -> None:
        crashes: deque[float] = deque()
        while not self._stopping.is_set():
            code = await self._one_life()
            if self._stopping.is_set():
                break
            now = time.monotonic()
            crashes.append(now)
            while crashes[0] < now - self._policy.window_seconds:
                crashes.popleft()
            self._give_up_if_hopeless(code, len(crashes))
            self._change("RESTARTING")
            log.warning("crashed", name=self.name, code=code, crashes=len(crashes))
            delay_s = min(self._policy.backoff_seconds * 2 ** (len(crashes) - 1), LONGEST_BACKOFF_S)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay_s)
            if not self._stopping.is_set():
                self.restarts += 1
        self._change("STOPPED")

    async def _one_life(self) -> int:
        with self.log_path.open("ab") as log_file:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "rewardmesh.cli.child", str(os.getpid()), *self._arguments),
                stdin=DEVNULL,
                stdout=log_file,
                stderr=STDOUT,
                # A group of its own: the terminal's Ctrl-C reaches the supervisor alone, and what a dead service leaves can be killed.
                start_new_session=True,
            )
        process = self._process
        if self._stopping.is_set():  # told while it was being made
            _kill_group(process.pid)
        self._change("STARTING")
        watching = asyncio.create_task(self._watch_health())
        try:
            return await process.wait()
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            _kill_group(process.pid)

    async def _watch_health(self) -> None:
        async with AsyncClient(self.address, timeout_s=2.0) as client:
            while not self._stopping.is_set():
                try:
                    served = await client.health() == "SERVING"
                    state: State = "SERVING" if served else "NOT_SERVING"
                except CallFailed:
                    state = "STARTING" if self.state == "STARTING" else "UNREACHABLE"
                if not self._stopping.is_set():
                    self._change(state)
                await asyncio.sleep(1.0 if self.state == "SERVING" else 0.2)

    def _give_up_if_hopeless(self, code: int, crashes: int) -> None:
        ended = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"
        if code == BAD_CONFIGURATION:
            why = f"{self.name} {ended}: its configuration is refused"
        elif crashes > self._policy.max_restarts:
            why = f"{self.name} {ended}, crash {crashes} within {self._policy.window_seconds:g} s"
        else:
            return
        self._change("FAILED")
        raise ServiceFailed(f"{why}; last lines of {self.log_path}:\n{self.log_tail()}")

    def _change(self, state: State) -> None:
        self.state = state
        if self._reported != (state, self.pid):
            self._reported = state, self.pid
            self._on_change()


def _kill_group(leader: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)
