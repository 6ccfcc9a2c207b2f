"""Versions at a real generation service: held beside the active one, sampled from, and loaded again when they are lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rewardmesh.client import AsyncClient
from rewardmesh.generation import GenerationConfig, create_server
from rewardmesh.trainer.mesh import Mesh, Sampled
from rewardmesh.trainer.prompts import Prompt
from rewardmesh.trainer.recipe import Recipe


async def test_held_versions(make_model: Callable[..., Path], tmp_path: Path) -> None:
    first, second, third = (make_model("causal", seed=seed) for seed in (21, 22, 23))
    server = await create_server(GenerationConfig(model=str(first), drain_seconds=2.0, threads=1))
    await server.start()
    recipe = Recipe.parse(
        {
            "run_dir": tmp_path,
            "policy": str(first),
            "prompts": {"path": tmp_path},
            "services": {"gateway": "127.0.0.1:1", "generation": server.address},
            "algorithm": {"name": "ppo", "kl_coef": 0.0},
            "sampling": {"max_tokens": 6},
        }
    )
    mesh = Mesh(recipe)

    async def texts(held: int | None = None, token_ids: list[int] | None = None) -> list[list[int]]:
        found: list[Sampled] = []
        await mesh.generate(
            [Prompt("a", (("user", "How many?"),), ())],
            lambda _, items: found.extend(items),
            n=3,
            temperature=1.0,
            seed=5,
            tag="t",
            held=held,
            token_ids={"a": token_ids} if token_ids else None,
        )
        if token_ids:
            assert found[0].rollout.prompt_ids.tolist() == token_ids
        return [item.rollout.completion_ids.tolist() for item in found]

    try:
        async with AsyncClient(server.address) as client:

            async def versions() -> int:
                return len((await client.list_versions()).versions)

            await mesh.publish(first)
            initial = await texts()
            await mesh.hold({0: first})
            await mesh.publish(second)
            assert await versions() == 2
            assert await texts(held=0) == initial
            later = await texts()
            assert later != initial
            await mesh.hold({0: first, 4: second})
            await mesh.publish(third)
            assert await versions() == 3
            assert await texts(held=4) == later
            for ref in (await client.list_versions()).versions:
                if ref.version != mesh.policy.version:
                    await client.unload_version(ref.version)
            assert await versions() == 1
            assert await texts(held=0) == initial, "loaded again"
            assert await texts(held=4) == later
            await mesh.hold({4: second})
            assert await versions() == 2
            assert await texts(token_ids=[5, 6, 7]) != await texts()
    finally:
        await mesh.close()
        await server.stop()
