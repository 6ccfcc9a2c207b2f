"""StreamScores: one outcome a sample in any order, slow readers, readers that go, wrong streams."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from rewardmesh.client import sample
from rewardmesh.serving import metrics
from rewardmesh.v1 import reward_service_pb2 as api

SERVICE = "rewardmesh.v1.RewardService"


def requests(count: int, size: int = 4) -> Iterator[api.StreamScoresRequest]:
    for start in range(0, count, size):
        samples = [sample(f"{i}", f"{i // 8} apples", f"{i} left") for i in range(start, min(start + size, count))]
        yield api.StreamScoresRequest(samples=samples)


async def until_idle() -> None:
    async with asyncio.timeout(10):
        while metrics.INFLIGHT_ITEMS.labels(SERVICE)._value.get():  # noqa: ASYNC110 - a gauge has no event
            await asyncio.sleep(0.01)


async def failing(stream: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        _ = [reply async for reply in stream]
    return error.value


async def test_many_samples_with_a_slow_reader(serve: Callable[..., Any]) -> None:
    async with serve() as client:
        expected = {one.sample_id: one.value for one in await client.score(request for each in requests(300) for request in each.samples)}
        seen = {}
        async for reply in client.reward.StreamScores(requests(300)):
            assert reply.outcome.sample_id not in seen
            seen[reply.outcome.sample_id] = reply.outcome.reward.value
            if len(seen) % 20 == 0:
                await asyncio.sleep(0.01)
    assert seen == pytest.approx(expected, abs=1e-4)


async def test_options_of_the_first_message_hold_for_all(serve: Callable[..., Any], vector_model: Any) -> None:
    async with serve(model=str(vector_model), objectives=["a", "b", "c"]) as client:

        def weighted() -> Iterator[api.StreamScoresRequest]:
            yield api.StreamScoresRequest(options=api.ScoreOptions(objective_weights={"b": 1.0}))
            yield from requests(8)

        replies = [reply async for reply in client.reward.StreamScores(weighted())]
    assert len(replies) == 8
    for reply in replies:
        assert reply.outcome.reward.value == pytest.approx(reply.outcome.reward.objectives[1].value)


async def test_an_empty_stream(serve: Callable[..., Any]) -> None:
    async with serve() as client:
        assert [reply async for reply in client.reward.StreamScores(iter(()))] == []


async def test_wrong_streams(serve: Callable[..., Any]) -> None:
    first = api.StreamScoresRequest(samples=[sample("a", "x", "y")])
    late = api.StreamScoresRequest(options=api.ScoreOptions())
    async with serve() as client:
        for messages, words in (([first, first], "'a' is already the id"), ([first, late], "options: may only be in the first message")):
            error = await failing(client.reward.StreamScores(iter(messages)))
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert words in (error.details() or "")


async def test_a_reader_that_goes_leaves_nothing_behind(serve: Callable[..., Any]) -> None:
    async with serve() as client:
        stream = client.reward.StreamScores(requests(2000))
        assert (await stream.read()).outcome.sample_id
        stream.cancel()
        await until_idle()
        assert len(await client.score([sample("a", "x", "y")])) == 1


async def test_a_deadline_in_the_middle_of_a_stream(serve: Callable[..., Any]) -> None:
    async with serve() as client:
        stream = client.reward.StreamScores(timeout=0.5)
        await stream.write(api.StreamScoresRequest(samples=[sample("a", "x", "y")]))
        assert (await stream.read()).outcome.sample_id == "a"
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await stream.read()
        assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await until_idle()
