"""Replicas that die or freeze under load: no caller fails, and few calls are sent twice. Real processes, SIGKILL and SIGSTOP."""

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from rewardmesh.client import AsyncClient, ChannelOptions, ChannelStatistics, Client, sample
from rewardmesh.v1 import common_pb2

Spawn = Callable[..., list[Any]]
Load = Callable[..., ChannelStatistics]

CALLS = 400
CONCURRENCY = 8


@pytest.fixture(params=["sync", "async"])
def load(request: pytest.FixtureRequest) -> Load:
    """load(target, calls, at, then): so many calls, `then()` after the first `at`; checks that all have values."""

    def blocking(target: str, at: int, then: Callable[[], None]) -> ChannelStatistics:
        with Client(target, timeout_s=20) as client, ThreadPoolExecutor(CONCURRENCY) as threads:

            def call(number: int) -> float | None:
                if number == at:
                    then()
                return client.score([sample("a", "p", "cc")])[0].value

            assert set(threads.map(call, range(CALLS))) == {2}
            return client.statistics()

    def asynchronous(target: str, at: int, then: Callable[[], None]) -> ChannelStatistics:
        async def run() -> ChannelStatistics:
            async with AsyncClient(target, timeout_s=20) as client:
                numbers = iter(range(CALLS))

                async def caller() -> set[float | None]:
                    found = set()
                    for number in numbers:
                        if number == at:
                            then()
                        found.add((await client.score([sample("a", "p", "cc")]))[0].value)
                    return found

                values = await asyncio.gather(*(caller() for _ in range(CONCURRENCY)))
                assert set().union(*values) == {2}
                return client.statistics()

        return asyncio.run(run())

    return blocking if request.param == "sync" else asynchronous


@pytest.mark.parametrize("at", [0, 100])
@pytest.mark.parametrize("how", ["kill", "freeze"])
def test_one_of_three_replicas_fails(spawn: Spawn, load: Load, how: str, at: int) -> None:
    replicas = spawn(3, seconds=0.002)
    statistics = load(",".join(replica.address for replica in replicas), at, getattr(replicas[0], how))
    assert statistics.calls == CALLS
    assert statistics.attempts <= 1.2 * CALLS
    assert statistics.replicas[replicas[0].address].failures
    assert sum(replica.attempts for replica in statistics.replicas.values()) == statistics.attempts
    assert all(replica.in_flight == 0 for replica in statistics.replicas.values())


def test_a_thawed_replica_comes_back(spawn: Spawn) -> None:
    frozen, healthy = spawn(2)
    options = ChannelOptions(hedge_after_s=0.05, eject_after=2, ejection_s=0.2, max_ejection_s=0.4)
    with Client(f"{frozen.address},{healthy.address}", channel_options=options) as client:

        def attempts() -> int:
            assert client.score([sample("a", "p", "cc")])[0].value == 2
            return client.statistics().replicas[frozen.address].attempts

        while not attempts():
            pass
        frozen.freeze()
        until(lambda: bool(attempts() and client.statistics().replicas[frozen.address].ejected))
        before = client.statistics().replicas[frozen.address].attempts
        for _ in range(20):
            attempts()
        assert client.statistics().replicas[frozen.address].attempts == before  # probes are no callers' calls
        frozen.thaw()
        until(lambda: attempts() > before)
        assert not client.statistics().replicas[frozen.address].ejected


def until(done: Callable[[], bool]) -> None:
    limit = time.monotonic() + 20
    while not done():
        assert time.monotonic() < limit
        time.sleep(0.01)


@pytest.fixture(params=["sync", "async"])
def stream(request: pytest.FixtureRequest) -> Callable[..., list[Any]]:
    """stream(target, items, on_result, options): all scores of one stream."""

    def blocking(target: str, items: Any, on_result: Callable[[Any], None], options: ChannelOptions) -> list[Any]:
        found = []
        with Client(target, channel_options=options) as client:
            for score in client.stream_scores(items):
                found.append(score)
                on_result(client)
        return found

    def asynchronous(target: str, items: Any, on_result: Callable[[Any], None], options: ChannelOptions) -> list[Any]:
        async def run() -> list[Any]:
            found = []
            async with AsyncClient(target, channel_options=options) as client:
                async for score in client.stream_scores(items):
                    found.append(score)
                    on_result(client)
            return found

        return asyncio.run(run())

    return blocking if request.param == "sync" else asynchronous


def test_a_stream_goes_on_elsewhere_when_its_replica_freezes(spawn: Spawn, stream: Callable[..., list[Any]]) -> None:
    replicas = {replica.address: replica for replica in spawn(2, seconds=0.001)}
    frozen: list[str] = []
    seen = 0

    def on_result(client: Any) -> None:
        nonlocal seen
        seen += 1
        if seen == 20:
            frozen.extend(address for address, found in client.statistics().replicas.items() if found.in_flight)
            replicas[frozen[0]].freeze()

    items = [sample(f"s{index}", "p", "x" * index) for index in range(50)]
    options = ChannelOptions(stream_window=8, initial_backoff_s=0.02, keepalive_s=0.5, keepalive_timeout_s=0.5)
    scores = stream(",".join(replicas), items, on_result, options)
    assert len(frozen) == 1
    assert sorted((score.sample_id, score.value) for score in scores) == sorted((f"s{index}", index) for index in range(50))


def test_a_stream_goes_on_elsewhere_when_its_replica_is_killed(spawn: Spawn, stream: Callable[..., list[Any]]) -> None:
    replicas = {replica.address: replica for replica in spawn(3, seconds=0.001)}
    killed: list[str] = []
    seen = 0

    def on_result(client: Any) -> None:
        nonlocal seen
        seen += 1
        if seen in (50, 120):
            streaming = [address for address, found in client.statistics().replicas.items() if found.in_flight]
            for address in streaming:
                if address not in killed:
                    killed.append(address)
                    replicas[address].kill()

    def items() -> Iterator[common_pb2.Sample]:
        return (sample(f"s{index}", "p", "x" * index) for index in range(200))

    scores = stream(",".join(replicas), items(), on_result, ChannelOptions(stream_window=64, initial_backoff_s=0.02))
    assert len(killed) == 2
    assert {score.sample_id: score.value for score in scores} == {f"s{index}": index for index in range(200)}
    assert len(scores) == 200
