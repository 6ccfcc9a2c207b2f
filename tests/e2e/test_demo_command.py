"""`rewardmesh demo` with models from elsewhere: the whole command, every service a process, and none left behind."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


async def test_any_model_directory_can_be_used(models: dict[str, Path], tmp_path: Path) -> None:
    run_dir = tmp_path / "demo"
    options = [f"--{name}={models[name]}" for name in ("policy", "reward", "judge")]
    command = [sys.executable, "-m", "rewardmesh.cli", "demo", f"--run-dir={run_dir}", "--seed=3", "--steps=2", *options]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT)
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    summary = json.loads((run_dir / "summary.json").read_text())
    wanted = {"heldout_accuracy_before", "heldout_accuracy_after", "heldout_greedy_accuracy_before", "reward_before", "reward_after"}
    wanted |= {"kl", "steps", "seconds_per_step", "reward_wait_fraction", "requests", "absences", "versions", "components_after"}
    assert wanted <= set(summary)
    assert (summary["steps"], summary["heldout_n"]) == (2, 500)
    for name in ("report.html", "samples.parquet", "summary.json"):
        assert str(run_dir / name) in out.decode()
    left = [pid for pid in os.listdir("/proc") if pid.isdigit() and str(run_dir).encode() in _command_line(pid)]
    assert left == []


def _command_line(pid: str) -> bytes:
    try:
        return Path("/proc", pid, "cmdline").read_bytes()
    except OSError:  # it ended meanwhile
        return b""
