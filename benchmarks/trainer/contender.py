"""A contender as a process: started once, asked in turn, so that rounds alternate and nobody runs beside another."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).parents[2]
PEER_PYTHON = ROOT / ".venv-trl-1.16" / "bin" / "python"


class ContenderError(Exception):
    """A contender did not start, or ended; with the end of its log."""


class Contender:
    """One worker module (see `worker`) with its arguments.

    Args:
        name: key in the results; title: for people.
        python: interpreter, which decides the environment.
    """

    def __init__(self, name: str, title: str, python: Path, module: str, arguments: Sequence[str], threads: int, folder: Path) -> None:
        self.name = name
        self.title = title
        self._log = folder / f"{name}.log"
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [str(python), "-m", module, *arguments, "--threads", str(threads)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=ROOT,
                env=environment,
            )
        self.about: dict[str, Any] = {}

    def __enter__(self) -> Self:
        self.about = self._reply()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def ask(self, command: str) -> dict[str, Any]:
        """What it answers to a command.

        Raises:
            ContenderError: it has ended.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{command}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # what it said last is in its log
        return self._reply()

    def stop(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it ended by itself
            self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def _reply(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self.stop()
            tail = "\n".join(self._log.read_text(errors="replace").splitlines()[-15:])
            raise ContenderError(f"{self.name} ended with status {self._process.returncode}\n{tail}")
        reply: dict[str, Any] = json.loads(line)
        return reply


def ours(model: Path, batch: Path, threads: int, folder: Path, without: str = "") -> Contender:
    """Our policy, or it without a part of the packed forward."""
    name = f"without-{without}" if without else "rewardmesh"
    titles = {"": "rewardmesh", "sharing": "rewardmesh without sharing", "packing": "rewardmesh, padded instead of packed"}
    arguments = [str(model), str(batch), *(["--without", without] if without else [])]
    if without == "packing":  # the smaller a padded batch, the less of it is padding
        arguments += ["--micro-batch-tokens", "512"]
    return Contender(name, titles[without], Path(sys.executable), "benchmarks.trainer.ours", arguments, threads, folder)


def peer(model: Path, batch: Path, threads: int, folder: Path, per_device: int, padding: str) -> Contender:
    """TRL; `padding` is "generation", as it pads, or "micro-batch"."""
    title = f"TRL 1.16, {per_device} sequences a micro-batch"
    if padding == "micro-batch":
        title += ", sorted and padded by hand"
    name = f"trl-{padding}-{per_device}"
    arguments = [str(model), str(batch), "--per-device", str(per_device), "--padding", padding]
    return Contender(name, title, PEER_PYTHON, "benchmarks.trainer.peer_trl", arguments, threads, folder)
