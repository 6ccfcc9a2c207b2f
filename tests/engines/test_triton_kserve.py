"""`engine: triton` with a reward server of ours behind it: rewardmesh calls rewardmesh by KServe v2."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rewardmesh.client import AsyncClient, sample
from rewardmesh.reward import RewardConfig, create_server
from rewardmesh.v1 import common_pb2 as pb

SAMPLES = [sample(f"s{n}", "How many apples has Ann?", "Ann has " + "more " * n + "19") for n in range(20)]


@pytest.mark.parametrize("beside", [{"mask": "attention_mask"}, {"mask": "", "lengths": "lengths"}], ids=["mask", "lengths"])
async def test_scores_pass_through(reward_model: Path, beside: dict[str, Any]) -> None:
    settings: dict[str, Any] = {"model": str(reward_model), "drain_seconds": 1.0, "budget_tokens": 16384, "cache_bytes": 0}
    inner = await create_server(RewardConfig(**settings, name="inner"))
    await inner.start()
    try:
        options = {"model_name": "inner", "output": "score", "output_is": "logit", **beside}
        outer = await create_server(RewardConfig(**settings, engine="triton", engine_address=inner.address, engine_options=options))
        await outer.start()
        try:
            async with AsyncClient(inner.address) as direct, AsyncClient(outer.address) as client:
                expected, found = await direct.score(SAMPLES), await client.score(SAMPLES)
        finally:
            await outer.stop()
    finally:
        await inner.stop()
    assert None not in [outcome.value for outcome in expected]
    assert [outcome.value for outcome in found] == pytest.approx([outcome.value for outcome in expected], abs=1e-5)


async def test_absences_keep_their_reason(make_model: Callable[..., Path]) -> None:
    """The inner server's context is shorter than the outer one knows."""
    wide, narrow = make_model("classification"), make_model("classification", max_position_embeddings=64)
    settings: dict[str, Any] = {"drain_seconds": 1.0, "budget_tokens": 16384, "cache_bytes": 0}
    inner = await create_server(RewardConfig(**settings, model=str(narrow), name="inner"))
    await inner.start()
    try:
        options = {"model_name": "inner", "output": "score", "output_is": "logit", "absence": "absence"}
        config = RewardConfig(**settings, model=str(wide), engine="triton", engine_address=inner.address, engine_options=options)
        outer = await create_server(config)
        await outer.start()
        try:
            async with AsyncClient(outer.address) as client:
                found = await client.score([SAMPLES[0], sample("long", "How many?", "more " * 60)])
        finally:
            await outer.stop()
    finally:
        await inner.stop()
    assert found[0].value is not None
    lost = found[-1].message.absence
    assert lost.reason == pb.ABSENCE_REASON_TOO_LONG
    assert "the model takes 64" in lost.detail
