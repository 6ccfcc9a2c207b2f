"""Versions are loaded beside, switched atomically and freed; every reply is of exactly one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from rewardmesh.client import AsyncClient, CallFailed, sample
from rewardmesh.serving import metrics
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import reward_service_pb2 as api

SAMPLES = [sample(f"{i}", "How many apples?", f"{i} apples") for i in range(4)]


async def refused(call: Any, code: grpc.StatusCode) -> str:
    with pytest.raises(CallFailed) as error:
        await call
    assert error.value.code is code
    return error.value.details


async def values(client: AsyncClient, version: int = 0, samples: list[pb.Sample] = SAMPLES) -> tuple[int, list[float]]:
    """The one version that answered, and its scores."""
    options = api.ScoreOptions(model=pb.ModelRef(version=version))
    outcomes = (await client.reward.Score(api.ScoreRequest(samples=samples, options=options))).outcomes
    [found] = {outcome.provenance.model.version for outcome in outcomes}
    return found, [outcome.reward.value for outcome in outcomes]


async def test_a_version_that_would_break_the_promise_of_equal_bits_is_refused(
    serve: Callable[..., Any], make_model: Callable[..., Path]
) -> None:
    """A server that computes whole batches natively cannot take up a model that torch computes."""
    odd = make_model("classification", hidden_act="mish")
    async with serve(batch_invariant=True) as client:
        assert (await client.get_model()).capabilities.computed_by == "native"
        assert "mish" in await refused(client.load_version(2, str(odd)), grpc.StatusCode.FAILED_PRECONDITION)
        assert (await values(client))[0] == 1
    async with serve() as client:
        await client.load_version(2, str(odd))
        await client.activate_version(2, expected_current=1)
        capabilities = (await client.get_model()).capabilities
        assert (capabilities.computed_by, capabilities.batch_invariant) == ("torch", False)
        assert "mish" in capabilities.computed_by_reason


async def test_the_life_of_a_version(serve: Callable[..., Any], other_model: Path) -> None:
    async with serve() as client:
        before = await client.get_model()
        assert (before.active.name, before.active.version, len(before.versions)) == ("tiny", 1, 1)
        assert before.capabilities.forward_mode == 1, "FORWARD_MODE_PACKED"
        assert (before.capabilities.max_tokens, before.capabilities.dtype, before.capabilities.device) == (256, "float32", "cpu")
        assert before.capabilities.parameters > 1000
        first, old = await values(client)
        loaded = await client.load_version(2, str(other_model))
        assert loaded.model.version == 2
        assert loaded.model.fingerprint != before.active.fingerprint
        assert await values(client) == (1, old), "loading switches nothing"
        named, new = await values(client, version=2)
        assert named == 2
        assert new != pytest.approx(old, abs=1e-3)
        switched = await client.activate_version(2, expected_current=1)
        assert (switched.previous.version, switched.active.version) == (1, 2)
        assert await values(client) == (2, new)
        assert (await values(client, version=1)) == (first, old)
        assert [one.version for one in (await client.list_versions("tiny")).versions] == [1, 2]
        left = await client.unload_version(1)
        assert [one.version for one in left.versions] == [2]
        announced = {tuple(one.labels.values()) for family in metrics.MODEL_INFO.collect() for one in family.samples}
        service = "rewardmesh.v1.RewardService"
        assert (service, "tiny", "2", loaded.model.fingerprint) in announced
        assert (service, "tiny", "1", before.active.fingerprint) not in announced


async def test_mistakes(serve: Callable[..., Any], reward_model: Path, vector_model: Path, causal_model: Path, tmp_path: Path) -> None:
    async with serve() as client:
        assert "must be greater" in await refused(client.load_version(1, str(reward_model)), grpc.StatusCode.INVALID_ARGUMENT)
        assert "at least 1" in await refused(client.load_version(0, str(reward_model)), grpc.StatusCode.INVALID_ARGUMENT)
        assert "path" in await refused(client.load_version(2, ""), grpc.StatusCode.INVALID_ARGUMENT)
        nowhere = tmp_path / "nowhere"
        assert str(nowhere) in await refused(client.load_version(2, str(nowhere)), grpc.StatusCode.FAILED_PRECONDITION)
        assert "score.weight" in await refused(client.load_version(2, str(causal_model)), grpc.StatusCode.FAILED_PRECONDITION)
        assert "3 outputs" in await refused(client.load_version(2, str(vector_model)), grpc.StatusCode.FAILED_PRECONDITION)
        assert "known: 1" in await refused(client.activate_version(2), grpc.StatusCode.NOT_FOUND)
        assert "is active, not 5" in await refused(client.activate_version(1, expected_current=5), grpc.StatusCode.FAILED_PRECONDITION)
        assert "activate another first" in await refused(client.unload_version(1), grpc.StatusCode.FAILED_PRECONDITION)
        assert "'3'" in await refused(client.unload_version(3), grpc.StatusCode.NOT_FOUND)
        for call in (client.get_model("other"), client.list_versions("other"), client.activate_version(1, name="other")):
            assert "known: tiny" in await refused(call, grpc.StatusCode.NOT_FOUND)
        assert (await values(client))[0] == 1


async def test_one_of_two_equal_loads_is_refused(serve: Callable[..., Any], other_model: Path) -> None:
    async with serve() as client:
        loads = [client.load_version(2, str(other_model)) for _ in range(2)]
        results = await asyncio.gather(*loads, return_exceptions=True)
        assert sorted(type(one).__name__ for one in results) == ["CallFailed", "LoadVersionResponse"]


async def test_of_several_switches_one_wins(serve: Callable[..., Any], reward_model: Path) -> None:
    async with serve() as client:
        for version in (2, 3, 4):
            await client.load_version(version, str(reward_model))
        switches = [client.activate_version(version, expected_current=1) for version in (2, 3, 4)]
        results = await asyncio.gather(*switches, return_exceptions=True)
        [won] = [one for one in results if not isinstance(one, BaseException)]
        assert (await client.get_model()).active.version == won.active.version


@pytest.mark.parametrize("seed", range(3))
async def test_switching_under_load(serve: Callable[..., Any], other_model: Path, seed: int) -> None:
    """No reply mixes versions, and each is what its version says: with shared prompts, a prefix cache and several batches under way."""
    random = np.random.default_rng(seed)
    calls = [
        [
            sample(f"{c}-{i}", f"How many apples are {c % 3} and {c}?", f"{random.integers(1000)} apples")
            for i in range(int(random.integers(1, 6)))
        ]
        for c in range(60)
    ]
    async with serve(cache_bytes=0, budget_tokens=256) as client:
        await client.load_version(2, str(other_model))
        replies: dict[int, tuple[int, list[float]]] = {}

        async def ask(worker: int) -> None:
            for number in range(worker, len(calls), 4):
                replies[number] = await values(client, samples=calls[number])

        async def switch(asking: asyncio.Future[Any]) -> None:
            version = 1
            while not asking.done():
                version = 3 - version
                await client.activate_version(version)
                await asyncio.sleep(float(random.uniform(0, 0.02)))

        asking = asyncio.gather(*(ask(worker) for worker in range(4)))
        await asyncio.gather(asking, switch(asking))
        for number, (version, found) in replies.items():
            assert found == pytest.approx((await values(client, version, calls[number]))[1], abs=1e-4)
    assert {version for version, _ in replies.values()} == {1, 2}
