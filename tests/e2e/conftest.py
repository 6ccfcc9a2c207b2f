"""A whole mesh of tiny models in this process, on loopback, for training end to end."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from rewardmesh.serving import Server

PROGRAM = """
name: tiny
signals:
  short: {verifier: length, options: {maximum: 12, margin: 30}}
  helpful: {reward: default}
  prefer: {judge: compare, mode: compare, against: group}
reward:
  sum:
    - {of: short, weight: 0.6}
    - {of: helpful, shape: {sigmoid: {centre: 0.0}}, weight: 0.2}
    - {of: prefer, weight: 0.2}
on_absence: {short: wait, helpful: wait, prefer: fallback(0.5)}
"""

RecipeMaker = Callable[..., Path]


@asynccontextmanager
async def serving(create: Callable[[Any], Awaitable[Server]], config: Any) -> AsyncIterator[Server]:
    """A started server, drained at the end."""
    server = await create(config)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


@pytest.fixture(scope="session")
def models(make_model: Callable[..., Path]) -> dict[str, Path]:
    return {
        "policy": make_model("causal", seed=1),
        "reward": make_model("classification", seed=2),
        "judge": make_model("causal", seed=3, max_position_embeddings=1024),
    }


@pytest.fixture
async def mesh(models: dict[str, Path], tmp_path: Path) -> AsyncIterator[dict[str, str]]:
    """Addresses of a running mesh by service; every service is batch-invariant."""
    from rewardmesh import gateway, generation, judge, logprob, reward, verifier

    program = tmp_path / "program.yaml"
    program.write_text(PROGRAM)
    common: dict[str, Any] = {"drain_seconds": 5.0, "batch_invariant": True, "threads": 1}
    async with AsyncExitStack() as stack:

        async def up(module: Any, **fields: Any) -> str:
            server: Server = await stack.enter_async_context(serving(module.create_server, module.Config(**fields)))
            return server.address

        addresses = {
            "verifier": await up(verifier, workers=1, drain_seconds=5.0),
            "reward": await up(reward, model=str(models["reward"]), **common),
            "judge": await up(judge, model=str(models["judge"]), min_label_mass=0.0, **common),
            "logprob": await up(logprob, model=str(models["policy"]), **common),
            "generation": await up(generation, model=str(models["policy"]), **common),
        }
        backends = {name: addresses[name] for name in ("verifier", "reward", "judge")}
        addresses["gateway"] = await up(gateway, programs=[program], backends=backends, drain_seconds=5.0)
        yield addresses


@pytest.fixture
def make_recipe(models: dict[str, Path], tmp_path: Path) -> RecipeMaker:
    """Writes a recipe for a mesh: make_recipe(addresses, name='run', **top-level fields)."""
    prompts = tmp_path / "prompts.jsonl"
    lines = [{"id": f"p{i}", "prompt": f"Ann has {i} apples and buys {i + 1} more.", "references": [str(2 * i + 1)]} for i in range(6)]
    prompts.write_text("\n".join(json.dumps(line) for line in lines))

    def make(addresses: dict[str, str], name: str = "run", **fields: Any) -> Path:
        recipe: dict[str, Any] = {
            "run_dir": str(tmp_path / name),
            "policy": str(models["policy"]),
            "prompts": {"path": str(prompts)},
            "services": {key: addresses[key] for key in ("gateway", "generation", "logprob", "verifier")},
            "algorithm": {"name": "online_dpo", "beta": 0.1, "reward_temperature": 0.1},
            "sampling": {"prompts_per_step": 3, "completions": 3, "temperature": 0.9, "max_tokens": 16},
            "optimiser": {"learning_rate": 1e-3},
            "steps": 4,
            "checkpoint_every": 1,
            "threads": 1,
            **fields,
        }
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(recipe))
        return path

    return make
