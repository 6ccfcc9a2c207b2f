"""Log-probabilities of 8,192 tokens over 150,000 classes with all statistics need less than a GiB beside the model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("memory_process.py")


def measure(tokens: int) -> dict[str, float]:
    command = [sys.executable, str(PROGRAM), "--extras", "--top-k=2", f"--tokens={tokens}"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=150)
    result: dict[str, float] = json.loads(done.stdout)
    return result


@pytest.mark.slow
def test_memory_stays_bounded_at_a_large_vocabulary() -> None:
    result = measure(8192)
    assert result["logits_bytes"] > 4 * 2**30
    assert result["extra_bytes"] < 2**30


def test_memory_is_a_small_part_of_the_logits() -> None:
    result = measure(512)
    assert result["extra_bytes"] < result["logits_bytes"] / 3
