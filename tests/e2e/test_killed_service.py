"""A service killed in the middle of training: training waits, the supervisor starts it again, no sample is lost or counted twice."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.conftest import PROGRAM
from rewardmesh.cli.mesh_file import MeshFile
from rewardmesh.cli.supervisor import Supervisor
from rewardmesh.trainer.ledger import Ledger
from rewardmesh.trainer.loop import train
from rewardmesh.trainer.recipe import Recipe
from tests_support import weights_digest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture
async def supervised(models: dict[str, Path], tmp_path: Path) -> AsyncIterator[Supervisor]:
    program = tmp_path / "program.yaml"
    program.write_text(PROGRAM.replace("prefer: fallback(0.5)", "prefer: wait"))
    model: dict[str, Any] = {"threads": 1, "batch_invariant": True}
    services: dict[str, Any] = {
        "verifier": {"kind": "verifier", "workers": 1},
        "reward": {"kind": "reward", "model": str(models["reward"]), **model},
        "judge": {"kind": "judge", "model": str(models["judge"]), "min_label_mass": 0.0, **model},
        "logprob": {"kind": "logprob", "model": str(models["policy"]), **model},
        "generation": {"kind": "generation", "model": str(models["policy"]), **model},
        "gateway": {
            "kind": "gateway",
            "programs": [str(program)],
            "backends": {name: f"${{services.{name}.address}}" for name in ("verifier", "reward", "judge")},
        },
    }
    path = tmp_path / "mesh.yaml"
    path.write_text(yaml.safe_dump({"log_dir": str(tmp_path / "logs"), "services": services, "restart": {"backoff_seconds": 0.1}}))
    async with Supervisor(MeshFile.load(path)) as mesh:
        await mesh.wait_ready(timeout_s=180)
        yield mesh


async def test_every_service_killed_once(supervised: Supervisor, make_recipe: Any) -> None:
    victims = ["reward", "gateway", "generation", "logprob"]

    async def run(name: str, kill: bool) -> Path:
        recipe = Recipe.load(make_recipe(supervised.addresses, name, steps=len(victims) + 1, checkpoint_every=10))
        loop = asyncio.get_running_loop()

        def on_step(step: int, metrics: Mapping[str, float]) -> None:
            if kill and 1 <= step <= len(victims):
                # A little later, so that the next step is under way.
                loop.call_later(0.05, os.kill, supervised.pids[victims[step - 1]], signal.SIGKILL)

        await train(recipe, on_step=on_step)
        count = Ledger(recipe.run_dir / "ledger").check(last_step=recipe.steps)
        assert (count.steps, count.samples, count.absent) == (recipe.steps, recipe.steps * 9, 0)
        return recipe.run_dir / "checkpoints" / f"step-{recipe.steps:06d}" / "policy"

    quiet = weights_digest(await run("quiet", kill=False))
    stormy = weights_digest(await run("stormy", kill=True))
    assert {name: supervised.restarts[name] for name in victims} == dict.fromkeys(victims, 1)
    assert stormy == quiet, "what a service answers does not depend on when it was started"
