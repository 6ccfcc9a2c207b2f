"""What a reward server computes once: callers at the same time, callers later, replicas with one Redis, and never across versions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from redis_process import RedisProcess, redis_process
from rewardmesh.client import AsyncClient, sample
from rewardmesh.engine.loading import LoadedModel
from rewardmesh.reward import RewardConfig
from rewardmesh.serving import ConfigError, metrics
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import reward_service_pb2 as api

SERVICE = "rewardmesh.v1.RewardService"
QUESTION = "Ann has 12 apples and buys 7 more. How many apples does she have now?"
ITEM = sample("item", QUESTION, "12 + 7 = 19")


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    with redis_process(tmp_path_factory.mktemp("redis")) as one:
        yield one


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Every sequence that a model of this process computes from now on."""
    sequences: list[list[int]] = []
    scores = LoadedModel.scores

    def counting(self: LoadedModel, batch: Sequence[Any]) -> list[tuple[list[float], int]]:
        sequences.extend(map(list, batch))
        return scores(self, batch)

    monkeypatch.setattr(LoadedModel, "scores", counting)
    return sequences


def hits(tier: str) -> float:
    """Items that a tier has answered so far."""
    value: float = metrics.CACHE_HITS.labels(SERVICE, tier)._value.get()
    return value


async def outcomes(client: AsyncClient, *samples: pb.Sample, version: int = 0) -> list[pb.Outcome]:
    options = api.ScoreOptions(model=pb.ModelRef(version=version))
    return list((await client.reward.Score(api.ScoreRequest(samples=samples, options=options))).outcomes)


async def test_sixteen_callers_at_once_are_computed_once(serve: Callable[..., Any], computed: list[list[int]]) -> None:
    async with serve() as client:
        replies = await asyncio.gather(*(outcomes(client, ITEM) for _ in range(16)))
    assert len(computed) == 1
    flat = [outcome for reply in replies for outcome in reply]
    assert len({outcome.reward.value for outcome in flat}) == 1
    assert all(outcome.HasField("reward") for outcome in flat)
    assert sum(not outcome.provenance.cached for outcome in flat) == 1
    for outcome in flat:
        assert (outcome.provenance.tokens_computed == 0) == outcome.provenance.cached
        assert outcome.provenance.tokens_read > 0
        assert (outcome.provenance.model.name, outcome.provenance.model.version) == ("tiny", 1)


async def test_a_later_caller_gets_what_was_kept(serve: Callable[..., Any], computed: list[list[int]]) -> None:
    other = sample("other", QUESTION, "12 + 7 = 18")
    async with serve() as client:
        [first] = await outcomes(client, ITEM)
        kept = hits("memory")
        again, new, renamed = await outcomes(client, ITEM, other, sample("renamed", QUESTION, "12 + 7 = 19"))
        assert len(computed) == 2
        assert hits("memory") - kept == 2
    assert (again.reward, renamed.reward) == (first.reward, first.reward)
    assert [each.provenance.cached for each in (first, again, new, renamed)] == [False, True, False, True]
    assert again.sample_id == "item"
    assert renamed.sample_id == "renamed"
    assert new.reward.value != first.reward.value


async def test_another_version_is_another_computation(serve: Callable[..., Any], other_model: Path, reward_model: Path) -> None:
    async with serve() as client:
        [old] = await outcomes(client, ITEM)
        await client.load_version(2, str(other_model))
        await client.activate_version(2)
        [new] = await outcomes(client, ITEM)
        assert not new.provenance.cached
        assert new.provenance.model.version == 2
        assert new.reward.value != old.reward.value
        [pinned] = await outcomes(client, ITEM, version=1)
        assert pinned.provenance.cached
        assert pinned.reward == old.reward
        await client.load_version(3, str(reward_model))
        [same_weights] = await outcomes(client, ITEM, version=3)
        assert same_weights.provenance.cached, "equal fingerprint, equal answers"
        assert same_weights.provenance.model.version == 3
        assert same_weights.reward == old.reward


async def test_callers_of_two_versions_at_once_never_mix(serve: Callable[..., Any], other_model: Path) -> None:
    async with serve(cache_bytes=0) as client:
        await client.load_version(2, str(other_model))
        expected = {version: (await outcomes(client, ITEM, version=version))[0].reward.value for version in (1, 2)}
        for _ in range(5):
            replies = await asyncio.gather(*(outcomes(client, ITEM, version=1 + number % 2) for number in range(16)))
            for number, [outcome] in enumerate(replies):
                assert outcome.provenance.model.version == 1 + number % 2
                assert outcome.reward.value == pytest.approx(expected[1 + number % 2], abs=1e-5)


async def test_the_dtype_of_the_weights_is_part_of_the_identity(serve: Callable[..., Any], redis: RedisProcess) -> None:
    async with serve(cache_url=redis.url) as client:
        await outcomes(client, ITEM)
    async with serve(cache_url=redis.url, dtype="bfloat16") as client:
        [rounded] = await outcomes(client, ITEM)
    assert not rounded.provenance.cached


async def test_replicas_share_a_redis(serve: Callable[..., Any], redis: RedisProcess, computed: list[list[int]]) -> None:
    redis.ask(b"FLUSHALL")
    item = sample("shared", QUESTION, "It is 19.")
    settings = {"cache_url": redis.url, "cache_timeout_seconds": 5.0}
    async with serve(**settings, replica="one") as one, serve(**settings, replica="two") as two:
        [first] = await outcomes(one, item)
        await redis.holds(1)
        [second] = await outcomes(two, item)
    assert len(computed) == 1
    assert second.provenance.cached
    assert second.provenance.replica == "two"
    assert second.reward == first.reward


async def test_an_objective_is_weighted_after_the_cache(serve: Callable[..., Any], vector_model: Path) -> None:
    async with serve(model=str(vector_model), objectives=["a", "b", "c"]) as client:
        values = []
        for name in ("a", "b", "c"):
            request = api.ScoreRequest(samples=[ITEM], options=api.ScoreOptions(objective_weights={name: 1.0}))
            [outcome] = (await client.reward.Score(request)).outcomes
            values.append(outcome.reward.value)
            assert outcome.reward.value == pytest.approx({part.name: part.value for part in outcome.reward.objectives}[name])
        assert outcome.provenance.cached
    assert len(set(values)) == 3


@pytest.mark.parametrize("native", [True, False])
async def test_a_warm_server_replays_to_the_bit(serve: Callable[..., Any], native: bool) -> None:
    groups = [[sample(f"{q}-{i}", f"{QUESTION} And {q}?", f"{i} apples" * (i + 1)) for i in range(4)] for q in range(4)]

    async def rewards(client: AsyncClient) -> list[float]:
        return [outcome.reward.value for outcome in await outcomes(client, *(one for group in groups for one in group))]

    async with serve(batch_invariant=True, native=native) as cold:
        expected = await rewards(cold)
    async with serve(batch_invariant=True, native=native) as warm:
        for group in groups:
            await outcomes(warm, *group[:2])  # other company, other rounding
        assert await rewards(warm) == expected
        assert await rewards(warm) == expected


def test_a_wrong_address_is_a_mistake_in_the_configuration() -> None:
    with pytest.raises(ConfigError, match=r"cache_url: .*must begin with redis://"):
        RewardConfig.load({"model": "m", "cache_url": "memcached://x"})
