"""Servers under test as processes of their own: started in a process group with a log file, waited for, stopped by their process id."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.scoring.contender import ContenderError, environment_with

POLL_S = 0.1


class ServerProcess:
    """A command that runs until it is stopped, with everything it started."""

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None, folder: Path | None = None) -> None:
        """Start it; `environment` is added to ours (see `environment_with`), `log` takes its output, `folder` is where it runs."""
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment_with(environment or {}),
                cwd=folder,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Process id, which is also that of its group."""
        return self._process.pid

    def wait_ready(self, ready: Callable[[], bool], timeout_s: float) -> None:
        """Wait until `ready` says so.

        Raises:
            ContenderError: it ended, or is not ready in time; with the end of its log.
        """
        deadline = time.monotonic() + timeout_s
        while not ready():
            if self._process.poll() is not None:
                raise ContenderError(f"ended with status {self._process.returncode} before it was ready\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise ContenderError(f"not ready after {timeout_s:.0f} s\n{self.log_tail()}")
            time.sleep(POLL_S)

    def signal(self, number: int) -> None:
        """Send a signal to the process and all it started."""
        os.killpg(self.pid, number)

    def stop(self, grace_s: float = 30.0) -> None:
        """SIGTERM, then SIGKILL; returns when the process has ended and its group with it."""
        try:
            self.signal(signal.SIGTERM)
            self._process.wait(grace_s)
        except ProcessLookupError:
            pass
        except subprocess.TimeoutExpired:
            self.log_line(f"still running {grace_s:.0f} s after SIGTERM: killed")
        with contextlib.suppress(ProcessLookupError):
            self.signal(signal.SIGKILL)
        self._process.wait()

    def log_line(self, text: str) -> None:
        """Add a line to its log."""
        with self._log.open("a") as output:
            output.write(f"{text}\n")

    def log_tail(self, lines: int = 15) -> str:
        """The end of its log."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-lines:])


def free_ports(count: int) -> list[int]:
    """Different ports of the loopback interface that nobody listens on."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def free_port() -> int:
    """One such port."""
    return free_ports(1)[0]


def http_ready(url: str) -> Callable[[], bool]:
    """Whether a URL answers with status 200."""

    def ready() -> bool:
        try:
            with urllib.request.urlopen(url, timeout=2) as reply:
                return bool(reply.status == 200)
        except (urllib.error.URLError, http.client.HTTPException, OSError):
            return False

    return ready
