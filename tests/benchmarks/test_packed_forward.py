"""The benchmark runs from the command line and reports what it must; how fast is for a quiet machine to say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["generated", "real"])
def data(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    """Arguments: no data, or a file in the form of the real one."""
    if request.param == "generated":
        return []
    answers = [{"solution": f"{n} eggs at 2 dollars are {2 * n} dollars.\nA: {2 * n}", "is_correct": n == 9} for n in (9, 10, 11, 9, 12)]
    lines = [
        {"question": f"Ann sells nine eggs on day {day} for 2 dollars each. How many dollars?", "answers": answers} for day in range(3)
    ]
    (tmp_path / "gsm8k_model_answers.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return ["--data", str(tmp_path)]


def test_tiny_run_reports_agreeing_scores(data: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.packed_forward", "--tiny", "--questions", "3", "--rounds", "2", "--threads", "1"]
    environment = {key: value for key, value in os.environ.items() if key != "REWARDMESH_DATA"}
    subprocess.run([*command, *data, "--out", str(tmp_path)], cwd=ROOT, env=environment, check=True, capture_output=True, timeout=120)
    results = json.loads((tmp_path / "packed_forward.json").read_text())
    assert {"processor", "usable_cores", "threads", "versions"} <= set(results["machine"])
    assert [set(bar) for bar in results["bars"]] == [{"name", "value", "unit", "bar", "met"}] * 2
    assert set(results["items_per_s"]) == {"served", "bare", "padded_8", "padded_32", "one_by_one"}
    assert all(len(rounds) == 2 for rounds in results["round_seconds"].values())
    assert max(results["greatest_difference"].values()) <= 1e-4
    setting = results["setting"]
    assert setting["items"] == 12
    assert setting["tokens_computed"] < setting["tokens_read"] <= setting["tokens_padded_8"] <= setting["tokens_padded_32"]
    assert "| packed, served over gRPC |" in (tmp_path / "packed_forward.md").read_text()
    assert (tmp_path / "packed_forward.png").read_bytes().startswith(b"\x89PNG")


def test_missing_data_is_named(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.packed_forward", "--tiny", "--data", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert "gsm8k_model_answers.jsonl" in done.stderr
