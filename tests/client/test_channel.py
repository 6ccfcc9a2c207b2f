"""Channels: spreading, skipping replicas that are dead or not serving, retries and their budget, targets."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from rewardmesh.client import AbsenceReason, AsyncClient, CallFailed, ChannelOptions, Client, sample, service_config

Serve = Callable[[], Any]


def scored(client: Client, calls: int) -> int:
    """How many of so many calls of one sample each gave a value."""
    return sum(client.score([sample("a", "p", "cc")])[0].value == 2 for _ in range(calls))


def settled(client: Client, done: Callable[[], bool]) -> None:
    """Call until all connections are up (or down) as the test wants them."""
    limit = time.monotonic() + 20
    while not done():
        assert time.monotonic() < limit, "connections did not settle"
        scored(client, 1)
        time.sleep(0.02)


def forget(servers: list[Any]) -> None:
    for server in servers:
        server.requests.clear()


@pytest.mark.parametrize("form", ["ipv4:{}", "{}"])
def test_calls_are_spread(serve: Serve, form: str) -> None:
    servers = [serve() for _ in range(3)]
    with Client(form.format(",".join(server.address for server in servers))) as client:
        assert scored(client, 60) == 60
    assert min(len(server.requests) for server in servers) >= 10  # of two equally loaded ones the one that rested longer


@pytest.mark.parametrize("form", ["dns:///localhost:{}", "localhost:{}", "127.0.0.1:{}", "ipv4:127.0.0.1:{}"])
def test_targets(fake: Any, form: str) -> None:
    with Client(form.format(fake.port)) as client:
        assert scored(client, 1) == 1


def test_a_dead_replica_is_skipped(serve: Serve) -> None:
    servers = [serve() for _ in range(3)]
    with Client(",".join(server.address for server in servers)) as client:
        settled(client, lambda: all(server.requests for server in servers))
        servers[0].stop()
        assert scored(client, 20) == 20
    with Client(f"{servers[0].address},{servers[1].address}") as client:
        assert scored(client, 10) == 10


def test_a_replica_that_stops_serving_is_skipped_until_it_serves(serve: Serve) -> None:
    servers = [serve(), serve()]
    servers[0].set_health("NOT_SERVING")
    options = ChannelOptions(initial_backoff_s=0.01, eject_after=1, ejection_s=0.2, max_ejection_s=0.5)
    with Client(",".join(server.address for server in servers), channel_options=options) as client:
        assert scored(client, 20) == 20
        assert [len(server.requests) for server in servers] == [0, 20]
        servers[0].set_health("SERVING")
        settled(client, lambda: bool(servers[0].requests))


def test_health_checks_can_be_off(fake: Any) -> None:
    fake.set_health("NOT_SERVING")
    with Client(fake.address, channel_options=ChannelOptions(health_check=False)) as client:
        assert scored(client, 1) == 1
    with Client(fake.address, channel_options=ChannelOptions(max_attempts=1)) as client:
        (score,) = client.score([sample("a", "p", "c")])
        assert score.absence is not None
        assert score.absence.reason is AbsenceReason.INFRASTRUCTURE


@pytest.mark.parametrize("size", [1, 2_000_000])
@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED])
def test_a_first_failure_is_retried_whatever_the_size(fake: Any, code: grpc.StatusCode, size: int) -> None:
    def hook(request: Any, context: grpc.ServicerContext) -> None:
        if len(fake.requests) == 1:
            context.abort(code, "not yet")

    fake.hook = hook
    with Client(fake.address) as client:
        (score,) = client.score([sample("a", "p", "x" * size)])
    assert score.value == size
    assert len(fake.requests) == 2
    assert fake.metadata[0]["x-request-id"] == fake.metadata[1]["x-request-id"]


def test_attempts_are_limited(fake: Any) -> None:
    fake.hook = lambda request, context: context.abort(grpc.StatusCode.UNAVAILABLE, "never")
    with Client(fake.address, channel_options=ChannelOptions(max_attempts=3, initial_backoff_s=0.01)) as client:
        assert client.score([sample("a", "p", "c")])[0].value is None
    assert len(fake.requests) == 3


def test_the_retry_budget_stops_retrying(fake: Any) -> None:
    fake.hook = lambda request, context: context.abort(grpc.StatusCode.UNAVAILABLE, "never")
    options = ChannelOptions(max_attempts=4, initial_backoff_s=0.01, retry_budget=10)
    with Client(fake.address, channel_options=options) as client:
        scored(client, 20)
    # Ten tokens at first, and a tenth of one for each call.
    assert 30 <= len(fake.requests) <= 20 + 10 + 2


def test_health(fake: Any) -> None:
    with Client(fake.address) as client:
        assert client.health() == "SERVING"
        fake.set_health("NOT_SERVING")
        assert client.health() == "NOT_SERVING"
        assert client.health("nobody") == "SERVICE_UNKNOWN"
    with Client("127.0.0.1:1", channel_options=ChannelOptions(max_attempts=1)) as client, pytest.raises(CallFailed) as caught:
        client.health()
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE


async def test_async_health(fake: Any) -> None:
    async with AsyncClient(fake.address) as client:
        assert await client.health() == "SERVING"
        assert await client.health("nobody") == "SERVICE_UNKNOWN"


def test_killed_in_flight_is_an_absence(fake: Any) -> None:
    begun, over = threading.Event(), threading.Event()

    def hook(request: Any, context: grpc.ServicerContext) -> None:
        begun.set()
        over.wait(10)

    fake.hook = hook
    with Client(fake.address, channel_options=ChannelOptions(max_attempts=1)) as client, ThreadPoolExecutor(1) as thread:
        pending = thread.submit(client.score, [sample("a", "p", "c")])
        assert begun.wait(10)
        fake.server.stop(None)
        (score,) = pending.result(20)
        over.set()
    assert score.absence is not None
    assert score.absence.reason is AbsenceReason.INFRASTRUCTURE


@pytest.fixture
def garbage() -> Iterator[str]:
    """A server whose replies are no protobuf."""
    handler: grpc.RpcMethodHandler[Any, Any] = grpc.unary_unary_rpc_method_handler(lambda request, context: b"\xff\xff\xff")
    server = grpc.server(ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("rewardmesh.v1.RewardService", {"Score": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait(10)


def test_garbage_is_an_error(garbage: str) -> None:
    with Client(garbage) as client, pytest.raises(CallFailed) as caught:
        client.score([sample("a", "p", "c")])
    assert caught.value.code is grpc.StatusCode.INTERNAL


def test_service_config_switches() -> None:
    full = json.loads(service_config(ChannelOptions(health_service="judge")))
    assert full["loadBalancingConfig"] == [{"round_robin": {}}]
    assert full["healthCheckConfig"] == {"serviceName": "judge"}
    assert "methodConfig" not in full  # retries of gRPC's own would multiply with ours
    assert "healthCheckConfig" not in json.loads(service_config(ChannelOptions(health_check=False)))
