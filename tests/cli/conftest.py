"""The command as its users run it: in processes of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rewardmesh.client import CallFailed, Client

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(autouse=True)
def own_loggers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that runs in this process must not have its loggers write to its closed streams ever after."""
    monkeypatch.setattr("rewardmesh.serving.logs.configure_logging", lambda *_, **__: None)


@pytest.fixture
def runner() -> CliRunner:
    return CliRunner()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts `rewardmesh ARGUMENT...` in tmp_path; whatever still runs at the end is killed."""
    started: list[subprocess.Popen[str]] = []
    # A test run in the background ignores Ctrl-C, and what it starts would inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def run(*arguments: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "rewardmesh.cli", *map(str, arguments)],
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "COLUMNS": "160", "NO_COLOR": "1"},
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def until(condition: Callable[[], Any], what: str, timeout_s: float = 60.0) -> Any:
    """The first true answer of `condition`; fails after timeout_s."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError(f"not within {timeout_s:g} s: {what}")


def serving(address: str) -> bool:
    """Whether a server answers SERVING."""
    with Client(address, timeout_s=1.0) as client, suppress(CallFailed):
        return client.health() == "SERVING"
    return False


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def family(pid: int) -> set[int]:
    """A process and everything it started, directly or not."""
    found = {pid}
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in task.read_text(encoding="ascii").split():
                found |= family(int(child))
    return found


def mesh_state(log_dir: Path) -> dict[str, dict[str, Any]]:
    """mesh-state.json by service; empty while there is none."""
    try:
        state = json.loads((log_dir / "mesh-state.json").read_text(encoding="utf-8"))
    except OSError:
        return {}
    return {service["name"]: service for service in state["services"]}


def ready_mesh(log_dir: Path) -> dict[str, dict[str, Any]]:
    """The state once the supervisor has seen every service serve; a service answers a moment before that."""

    def look() -> dict[str, dict[str, Any]]:
        state = mesh_state(log_dir)
        return state if state and all(each["pid"] and each["state"] == "SERVING" for each in state.values()) else {}

    found: dict[str, dict[str, Any]] = until(look, "every service serves")
    return found


def interrupt(process: subprocess.Popen[str], number: int = signal.SIGTERM, timeout_s: float = 30.0) -> tuple[int, str, str]:
    """Send a signal, wait; exit code, stdout, stderr."""
    process.send_signal(number)
    out, err = process.communicate(timeout=timeout_s)
    return process.returncode, out, err
