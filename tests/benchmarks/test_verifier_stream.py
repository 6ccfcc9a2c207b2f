"""The benchmark of the verifier's stream runs from the command line and checks what it measures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_small_run_reports_every_way_to_call(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.verifier_stream", "--items", "600", "--rounds", "1", "--out", str(tmp_path)]
    environment = {key: value for key, value in os.environ.items() if key != "REWARDMESH_DATA"}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, timeout=120)
    results = json.loads((tmp_path / "verifier_stream.json").read_text())
    assert [bar["bar"] for bar in results["bars"]] == [20_000, 50_000, 20_000]
    assert set(results["items_per_s"]) == {"stream", "building", "blocking", "single", "batches", "math"}
    assert all(costs["client"] > 0 and costs["server"] > 0 for costs in results["microseconds"].values())
    assert 0 < results["setting"]["share_right"] < 1
    assert (tmp_path / "verifier_stream.md").exists()
    assert (tmp_path / "verifier_stream.png").exists()
