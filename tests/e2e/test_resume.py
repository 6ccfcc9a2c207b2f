"""Killed training, resumed: the final weights are those of the uninterrupted run, bit for bit."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from rewardmesh.trainer.ledger import Ledger
from tests_support import weights_digest

RUN = """
import asyncio, sys
from pathlib import Path
from rewardmesh.trainer.loop import train
from rewardmesh.trainer.recipe import Recipe
asyncio.run(train(Recipe.load(Path(sys.argv[1])), on_step=lambda step, metrics: print(f"step {step}", flush=True)))
"""


async def run(recipe: Path, kill_after: int | None = None, delay_s: float = 0.0) -> None:
    """Train in a process of its own; kill -9 it `delay_s` after it reports a step."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", RUN, str(recipe), stdout=asyncio.subprocess.PIPE)
    assert process.stdout
    killed = False
    async for line in process.stdout:
        if kill_after is not None and line.decode().strip() == f"step {kill_after}":
            await asyncio.sleep(delay_s)
            os.kill(process.pid, signal.SIGKILL)
            killed = True
    code = await process.wait()
    assert code == (-signal.SIGKILL if killed else 0)


SAMPLERS = [
    {"name": "curriculum", "window": 2, "component": "short"},
    {"name": "opponent", "source": "checkpoint", "every": 2, "lag": 1},
    {"name": "mixture", "reference_weight": 0.5},
    {"name": "replay", "component": "helpful", "threshold": -100.0, "n": 1},
    {"name": "uncertain", "judge": 3},
    {"name": "dynamic", "rounds": 2},
]
"""Every kind of state: rates, remembered answers, held policies, a place in the prompts; and every kind of writer."""


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "fields",
    [
        {"algorithm": {"name": "online_dpo", "reward_temperature": 0.1}},
        {"algorithm": {"name": "ppo", "epochs": 2}},
        {"algorithm": {"name": "online_dpo", "reward_temperature": 0.1}, "samplers": SAMPLERS},
    ],
    ids=["dpo", "ppo", "samplers"],
)
async def test_killed_and_resumed_equals_uninterrupted(mesh: dict[str, str], make_recipe: Any, fields: dict[str, Any]) -> None:
    chosen = random.Random()
    whole = make_recipe(mesh, "whole", steps=6, checkpoint_every=2, **fields)
    broken = make_recipe(mesh, "broken", steps=6, checkpoint_every=2, **fields)
    await run(whole)
    step, delay_s = chosen.randint(1, 5), chosen.uniform(0, 0.2)
    print(f"killing {delay_s:.3f} s after step {step}")
    await run(broken, kill_after=step, delay_s=delay_s)
    await run(broken)
    digests, rows = [], []
    for name in (whole, broken):
        run_dir = Path(yaml.safe_load(name.read_text())["run_dir"])
        ledger = Ledger(run_dir / "ledger")
        counted = ledger.check(last_step=6)
        assert "samplers" in fields or counted.samples == 6 * 9
        rows.append(ledger.read(columns=["sample_id", "source", "completion_ids", "sampling_log_prob", "reward", "absence", "credit"]))
        digests.append(weights_digest(run_dir / "checkpoints" / "step-000006" / "policy"))
    assert rows[0].equals(rows[1])
    assert digests[0] == digests[1]
    if "samplers" in fields:
        sources = Counter(rows[0].column("source").to_pylist())
        assert sources["checkpoint"] == sources["mixture"] == sources["policy"]
        assert sources["replay"]
        assert "NOT_SELECTED" in rows[0].column("absence").to_pylist()
