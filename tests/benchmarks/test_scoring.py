"""The scoring benchmark runs end to end on a tiny model and text of its own; how fast is for a quiet machine to say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def run(out: Path, *arguments: str, status: int = 0) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.scoring", "--quick", "--threads", "1", "--out", str(out), *arguments]
    environment = {key: value for key, value in os.environ.items() if key != "REWARDMESH_DATA"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=380, check=False)
    assert done.returncode == status, done.stderr
    found: dict[str, Any] = json.loads((out / "scoring.json").read_text())
    return found


def test_races_report_agreeing_scores_and_a_later_part_is_merged(tmp_path: Path) -> None:
    first = run(tmp_path, "--only", "A,B,C")
    assert {"processor", "usable_cores", "threads", "versions"} <= set(first["machine"])
    assert [set(bar) for bar in first["bars"]] == []  # the bars are about the 16M model
    for workload in "ABC":
        race = first["races"]["tiny"][workload]
        assert set(race["contenders"]) == {"rewardmesh", "bare"}
        for contender in race["contenders"].values():
            assert contender["failed"] is None
            assert contender["difference"] < 1e-4
            assert [one["round"] for one in contender["passes"]] == [0]
    assert first["races"]["tiny"]["A"]["tokens_computed"] < first["races"]["tiny"]["A"]["tokens_read"]
    assert first["floor"]["matmul_flops_per_s"] > 0
    second = run(tmp_path, "--only", "single-flight")
    assert second["races"] == first["races"]
    assert second["single_flight"]["computed"] == 1
    assert second["single_flight"]["tokens_computed"] == second["single_flight"]["tokens_read"]
    report = (tmp_path / "scoring.md").read_text()
    assert "Generated text stands in" in report
    assert "| 16 callers of one item: times computed | 1 | ≤ 1 | yes |" in report
    assert (tmp_path / "scoring.png").read_bytes().startswith(b"\x89PNG")


def test_overload_gateway_and_memory(tmp_path: Path) -> None:
    found = run(tmp_path, "--only", "D,gateway,memory")
    loads = found["overload"]["loads"]
    assert [load["load"] for load in loads] == [0.5, 2.0]
    assert all(load["in_time"] + load["late"] + load["refused"] + load["failed"] == load["calls"] for load in loads)
    assert loads[0]["in_time"] > 0
    assert found["gateway"]["pairs"][0]["gateway_s"] > 0
    assert found["memory"]["extra_gib"] > 0
    assert found["memory"]["all_logits_gib"] == pytest.approx(512 * 20_000 * 4 / 2**30)


def test_replicas_that_die_or_freeze(tmp_path: Path) -> None:
    found = run(tmp_path, "--only", "replicas")["replicas"]
    assert set(found) == {"dead", "frozen"}
    for fault in found.values():
        assert fault["calls"] > 0
        assert fault["attempts"] >= fault["calls"]
        assert fault["failed"] == 0, fault["failures"]
