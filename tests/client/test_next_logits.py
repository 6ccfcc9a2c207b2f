"""Sessions of next-token logits: in step, taken up again with all tokens, closed well."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from rewardmesh.client import AsyncClient, CallFailed, ChannelOptions, Client

Talk = Callable[..., list[list[float]]]
FAST = ChannelOptions(initial_backoff_s=0.001)


@pytest.fixture(params=["sync", "async"])
def talk(request: pytest.FixtureRequest) -> Talk:
    """talk(address, prompt, *chosen, options, **kwargs): the logits after the prompt and after each choice."""

    def blocking(address: str, prompt: list[int], *chosen: list[int], options: ChannelOptions = FAST, **kwargs: Any) -> list[list[float]]:
        with Client(address, channel_options=options) as client, client.next_logits(prompt, **kwargs) as session:
            return [list(session.latest.logits), *(list(session.send(ids).logits) for ids in chosen)]

    def asynchronous(
        address: str, prompt: list[int], *chosen: list[int], options: ChannelOptions = FAST, **kwargs: Any
    ) -> list[list[float]]:
        async def run() -> list[list[float]]:
            async with AsyncClient(address, channel_options=options) as client, client.next_logits(prompt, **kwargs) as session:
                return [list(session.latest.logits), *[list((await session.send(ids)).logits) for ids in chosen]]

        return asyncio.run(run())

    return blocking if request.param == "sync" else asynchronous


def test_in_step(fake: Any, talk: Talk) -> None:
    assert talk(fake.address, [1, 2], [3], [4, 5], policy="p", top_k=7) == [[1, 2], [1, 2, 3], [1, 2, 3, 4, 5]]
    first, second, _ = fake.requests
    assert (first.policy.name, first.top_k) == ("p", 7)
    assert not second.HasField("policy")


def test_taken_up_again_with_all_tokens(fake: Any, talk: Talk) -> None:
    def hook(request: Any, context: grpc.ServicerContext) -> None:
        if len(fake.requests) in (1, 4):
            context.abort(grpc.StatusCode.UNAVAILABLE, "as told")

    fake.hook = hook
    assert talk(fake.address, [1], [2], [3], [4]) == [[1], [1, 2], [1, 2, 3], [1, 2, 3, 4]]


def test_taken_up_again_with_the_version_that_answered(fake: Any, talk: Talk) -> None:
    def hook(request: Any, context: grpc.ServicerContext) -> None:
        if len(fake.requests) == 2:
            context.abort(grpc.StatusCode.UNAVAILABLE, "as told")

    fake.hook = hook
    fake.policy_version = 7
    assert talk(fake.address, [1], [2], policy="p") == [[1], [1, 2]]
    assert [(request.policy.name, request.policy.version) for request in fake.requests] == [("p", 0), ("", 0), ("p", 7)]


def test_a_mistake_raises(fake: Any, talk: Talk) -> None:
    fake.hook = lambda request, context: context.abort(grpc.StatusCode.NOT_FOUND, "no such policy")
    with pytest.raises(CallFailed, match="no such policy"):
        talk(fake.address, [1], policy="nobody")
    assert len(fake.requests) == 1


def test_a_server_that_stays_away_raises(talk: Talk) -> None:
    with pytest.raises(CallFailed) as caught:
        talk("127.0.0.1:1", [1])
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE


def test_deadline(fake: Any, talk: Talk) -> None:
    over = threading.Event()
    fake.hook = lambda request, context: over.wait(10)
    with pytest.raises(CallFailed) as caught:
        talk(fake.address, [1], timeout_s=0.2)
    over.set()
    assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED


def test_nothing_is_refused(fake: Any, talk: Talk) -> None:
    with pytest.raises(ValueError, match="prompt_ids"):
        talk(fake.address, [])
    with pytest.raises(ValueError, match="no tokens"):
        talk(fake.address, [1], [])


async def test_a_session_is_used_in_a_with_statement(fake: Any) -> None:
    def blocking() -> None:
        with Client(fake.address) as client:
            session = client.next_logits([1])
            with pytest.raises(RuntimeError, match="with statement"):
                session.send([2])
            with pytest.raises(RuntimeError, match="with statement"):
                _ = session.latest

    await asyncio.to_thread(blocking)
    async with AsyncClient(fake.address) as client:
        session = client.next_logits([1])
        with pytest.raises(RuntimeError, match="with statement"):
            await session.send([2])
        async with session:
            pass
        with pytest.raises(RuntimeError, match="with statement"):
            await session.send([2])
