"""Who gets a call, and when it is sent again: load, ejection, retries, hedges, the budget, names that resolve anew."""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from rewardmesh.client import AsyncClient, ChannelOptions, Client, sample

Serve = Callable[..., Any]


class Caller:
    """One client, blocking or asyncio, with the same blocking face."""

    def __init__(self, flavour: str, target: str, options: ChannelOptions, timeout_s: float) -> None:
        self._loop = asyncio.new_event_loop() if flavour == "async" else None
        self._client: Any
        if self._loop is None:
            self._client = Client(target, channel_options=options, timeout_s=timeout_s)
        else:
            self._client = self._loop.run_until_complete(self._opened(target, options, timeout_s))

    async def _opened(self, target: str, options: ChannelOptions, timeout_s: float) -> AsyncClient:
        return AsyncClient(target, channel_options=options, timeout_s=timeout_s)

    def values(self, calls: int, at_once: int = 1) -> list[float | None]:
        """The values of so many calls."""
        if self._loop is not None:
            return self._loop.run_until_complete(self._values(calls, at_once))
        with ThreadPoolExecutor(at_once) as threads:
            return list(threads.map(lambda _: self._client.score([sample("a", "p", "cc")])[0].value, range(calls)))

    async def _values(self, calls: int, at_once: int) -> list[float | None]:
        gate = asyncio.Semaphore(at_once)

        async def call() -> float | None:
            async with gate:
                value: float | None = (await self._client.score([sample("a", "p", "cc")]))[0].value
                return value

        return list(await asyncio.gather(*(call() for _ in range(calls))))

    def statistics(self) -> Any:
        return self._client.statistics()

    def close(self) -> None:
        if self._loop is None:
            self._client.close()
        else:
            self._loop.run_until_complete(self._client.close())
            self._loop.close()


@pytest.fixture(params=["sync", "async"])
def connect(request: pytest.FixtureRequest) -> Any:
    """connect(servers or target, timeout_s=10, **options): a client."""
    opened: list[Caller] = []

    def connect(target: Any, timeout_s: float = 10, **options: Any) -> Caller:
        if not isinstance(target, str):
            target = ",".join(server.address for server in target)
        opened.append(Caller(request.param, target, ChannelOptions(**options), timeout_s))
        return opened[-1]

    yield connect
    for caller in opened:
        caller.close()


def until(done: Callable[[], bool], seconds: float = 20) -> None:
    limit = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < limit
        time.sleep(0.005)


def counts(servers: list[Any]) -> list[int]:
    return [len(server.requests) for server in servers]


def forget(servers: list[Any]) -> None:
    for server in servers:
        server.requests.clear()


def aborts(code: grpc.StatusCode) -> Callable[[Any, grpc.ServicerContext], None]:
    return lambda request, context: context.abort(code, "as told")


def reports(wait_ms: int | str, tokens: int = 0) -> Callable[[Any, grpc.ServicerContext], None]:
    trailers = (("x-queue-tokens", str(tokens)), ("x-estimated-wait-ms", str(wait_ms)))
    return lambda request, context: context.set_trailing_metadata(trailers)


@pytest.mark.parametrize("busy", [(5000, 0), (0, 1000)])
def test_calls_go_where_the_replies_say_there_is_less_to_wait_for(serve: Serve, connect: Any, busy: tuple[int, int]) -> None:
    servers = [serve(), serve()]
    servers[0].hook, servers[1].hook = reports(*busy), reports(0)
    caller = connect(servers, load_half_life_s=60.0, hedging=False)
    caller.values(4)
    forget(servers)
    caller.values(30)
    assert counts(servers) == [0, 30]


def test_nonsense_in_a_report_is_no_report(serve: Serve, connect: Any) -> None:
    servers = [serve(), serve()]
    servers[0].hook = reports("soon")
    connect(servers, hedging=False).values(20)
    assert min(counts(servers)) >= 5


def test_reported_load_is_forgotten(serve: Serve, connect: Any) -> None:
    servers = [serve(), serve()]
    servers[0].hook = reports(2000)
    caller = connect(servers, load_half_life_s=0.01)
    caller.values(6)
    servers[0].hook = reports(0)
    time.sleep(0.3)
    forget(servers)
    caller.values(10)
    assert servers[0].requests


def test_calls_go_where_fewer_are_in_flight(serve: Serve, connect: Any) -> None:
    servers = [serve(), serve()]
    servers[0].hook = lambda request, context: time.sleep(0.2)
    connect(servers, hedging=False).values(40, at_once=4)
    assert counts(servers)[0] < 15


def test_a_replica_that_fails_is_left_out_and_comes_back(serve: Serve, connect: Any) -> None:
    servers = [serve(), serve()]
    servers[0].hook = aborts(grpc.StatusCode.UNAVAILABLE)
    caller = connect(servers, initial_backoff_s=0.001, eject_after=1, ejection_s=0.5, max_ejection_s=0.5)
    until(lambda: caller.values(1) == [2] and caller.statistics().ejections > 0)
    forget(servers)
    assert caller.values(10) == [2] * 10
    found = caller.statistics().replicas[servers[0].address]
    assert (found.ejected, found.ejections, counts(servers)[0]) == (True, 1, 0)
    servers[0].hook = lambda request, context: None
    until(lambda: caller.values(1) == [2] and bool(servers[0].requests))
    assert not caller.statistics().replicas[servers[0].address].ejected


def test_ejections_grow(connect: Any, serve: Serve) -> None:
    dead, healthy = serve(), serve()
    dead.stop()
    caller = connect([dead, healthy], initial_backoff_s=0.001, eject_after=1, ejection_s=0.05, max_ejection_s=10.0)
    started = time.monotonic()
    while time.monotonic() - started < 1.5:
        assert caller.values(1) == [2]
    # Health checks fail meanwhile, and callers' calls are not used to try.
    assert caller.statistics().replicas[dead.address].attempts <= 2
    assert caller.statistics().replicas[dead.address].ejected


def test_when_all_are_left_out_all_are_asked(serve: Serve, connect: Any) -> None:
    servers = [serve(), serve()]
    for server in servers:
        server.hook = aborts(grpc.StatusCode.UNAVAILABLE)
    caller = connect(servers, max_attempts=1, eject_after=1, ejection_s=60.0)
    assert caller.values(10) == [None] * 10
    assert all(replica.ejected for replica in caller.statistics().replicas.values())
    assert sum(counts(servers)) == 10
    for server in servers:
        server.hook = lambda request, context: None
    assert caller.values(2) == [2, 2]
    assert not all(replica.ejected for replica in caller.statistics().replicas.values())


def test_a_retry_goes_to_another_replica(serve: Serve, connect: Any) -> None:
    servers = [serve() for _ in range(4)]
    for server in servers[:3]:
        server.hook = aborts(grpc.StatusCode.UNAVAILABLE)
    assert connect(servers, initial_backoff_s=0.001, max_attempts=4).values(1) == [2]
    assert max(counts(servers)) == 1


def test_refusals_are_load_and_no_failures(serve: Serve, connect: Any) -> None:
    servers = [serve(), serve()]
    servers[0].hook = aborts(grpc.StatusCode.RESOURCE_EXHAUSTED)
    caller = connect(servers, initial_backoff_s=0.001, eject_after=1)
    assert caller.values(20) == [2] * 20
    found = caller.statistics().replicas[servers[0].address]
    assert (found.failures, found.ejections) == (0, 0)
    assert found.refusals == found.attempts == counts(servers)[0] >= 1


def refuses_for(seconds: float) -> Callable[[Any, grpc.ServicerContext], None]:
    def hook(request: Any, context: grpc.ServicerContext) -> None:
        detail = any_pb2.Any()
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(round(seconds * 1e9))
        detail.Pack(error_details_pb2.RetryInfo(retry_delay=delay))
        context.abort_with_status(rpc_status.to_status(status_pb2.Status(code=8, message="full", details=[detail])))

    return hook


def test_a_pause_that_is_asked_for_is_kept(fake: Any, connect: Any) -> None:
    times: list[float] = []

    def hook(request: Any, context: grpc.ServicerContext) -> None:
        times.append(time.monotonic())
        if len(times) == 1:
            refuses_for(0.4)(request, context)

    fake.hook = hook
    assert connect([fake], initial_backoff_s=0.001).values(1) == [2]
    assert times[1] - times[0] >= 0.4


def test_grpcs_own_way_to_ask_for_a_pause_is_kept_too(fake: Any, connect: Any) -> None:
    times: list[float] = []

    def hook(request: Any, context: grpc.ServicerContext) -> None:
        times.append(time.monotonic())
        if len(times) == 1:
            context.set_trailing_metadata((("grpc-retry-pushback-ms", "300"),))
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")

    fake.hook = hook
    assert connect([fake], initial_backoff_s=0.001).values(1) == [2]
    assert times[1] - times[0] >= 0.3


def test_a_pause_of_one_replica_does_not_keep_others_waiting(serve: Serve, connect: Any) -> None:
    servers = [serve(), serve()]
    servers[0].hook = refuses_for(30)
    caller = connect(servers, initial_backoff_s=0.001)
    assert caller.values(10) == [2] * 10
    assert counts(servers)[0] <= 1


def test_no_waiting_for_a_pause_beyond_the_deadline(fake: Any, connect: Any) -> None:
    fake.hook = refuses_for(30)
    started = time.monotonic()
    assert connect([fake], timeout_s=10).values(1) == [None]
    assert time.monotonic() - started < 5
    assert len(fake.requests) == 1


def test_the_budget_bounds_a_storm(connect: Any) -> None:
    caller = connect("127.0.0.1:1,127.0.0.1:2,127.0.0.1:3", max_attempts=4, initial_backoff_s=0.001, max_backoff_s=0.01, retry_budget=10)
    assert caller.values(100, at_once=8) == [None] * 100
    found = caller.statistics()
    assert found.calls == 100
    assert 110 <= found.attempts <= 100 + 10 + 10 + 1


class Slow:
    """A hook that answers nobody until told, and knows which of its calls were cancelled."""

    def __init__(self) -> None:
        self.cancelled, self.over = threading.Event(), threading.Event()

    def __call__(self, request: Any, context: grpc.ServicerContext) -> None:
        context.add_callback(lambda: self.cancelled.set() if not context.is_active() else None)
        self.over.wait(10)


def first_to_slow(serve: Serve, connect: Any, **options: Any) -> tuple[Any, Any, Slow, Caller]:
    """A slow server and a fast one; the client's next call goes to the slow one first."""
    slow, fast = serve(), serve()
    caller = connect([slow, fast], **options)
    until(lambda: caller.values(1) == [2] and bool(slow.requests) and bool(fast.requests))
    while caller._client.channel._pool._replicas[slow.address].picked > caller._client.channel._pool._replicas[fast.address].picked:
        caller.values(1)
    slow.hook = hook = Slow()
    forget([slow, fast])
    return slow, fast, hook, caller


def test_a_hedge_wins_and_the_slow_attempt_is_cancelled(serve: Serve, connect: Any) -> None:
    slow, fast, hook, caller = first_to_slow(serve, connect, hedge_after_s=0.2)
    before = caller.statistics()
    assert caller.values(1) == [2]
    assert hook.cancelled.wait(5)
    hook.over.set()
    assert counts([slow, fast]) == [1, 1]
    found = caller.statistics()
    assert (found.hedges - before.hedges, found.hedge_wins - before.hedge_wins, found.retries) == (1, 1, 0)
    assert found.replicas[fast.address].hedges - before.replicas[fast.address].hedges == 1
    # It kept silent since the call began.
    assert found.replicas[slow.address].failures - before.replicas[slow.address].failures == 1


def test_without_hedging_one_waits(serve: Serve, connect: Any) -> None:
    slow, fast, hook, caller = first_to_slow(serve, connect, hedging=False, timeout_s=0.3)
    assert caller.values(1) == [None]
    hook.over.set()
    assert counts([slow, fast]) == [1, 0]


def test_a_hedge_that_fails_is_not_the_end(serve: Serve, connect: Any) -> None:
    slow, fast, hook, caller = first_to_slow(serve, connect, hedge_after_s=0.2)

    def fails(request: Any, context: grpc.ServicerContext) -> None:
        hook.over.set()
        context.abort(grpc.StatusCode.UNAVAILABLE, "as told")

    fast.hook = fails
    assert caller.values(1) == [2]
    assert counts([slow, fast]) == [1, 1]


def test_no_hedge_without_budget(serve: Serve, connect: Any) -> None:
    slow, fast, hook, caller = first_to_slow(serve, connect, hedge_after_s=0.02, retry_budget=0, timeout_s=0.3)
    assert caller.values(1) == [None]
    hook.over.set()
    assert counts([slow, fast]) == [1, 0]


class Names:
    """A resolver whose answers the test sets."""

    def __init__(self, *servers: Any) -> None:
        self.asked = 0
        self.hold: threading.Event | None = None
        self.set(*servers)

    def set(self, *servers: Any) -> None:
        self.addresses = [server.ip for server in servers]

    def __call__(self, name: str, port: int) -> list[str]:
        assert name == "scorer.test"
        self.asked += 1
        if self.hold:
            assert self.hold.wait(10)
        if not self.addresses:
            raise OSError("no such name")
        return self.addresses


@pytest.fixture
def replicas(serve: Serve) -> tuple[str, list[Any]]:
    """("scorer.test:port", three replicas behind it): one port, and a loopback address for each."""
    first = serve("127.0.0.10")
    return f"scorer.test:{first.port}", [first, serve("127.0.0.11", first.port), serve("127.0.0.12", first.port)]


@pytest.mark.parametrize("form", ["{}", "dns:///{}", "dns:{}"])
def test_names_are_resolved_again(replicas: tuple[str, list[Any]], connect: Any, form: str) -> None:
    name, (first, second, third) = replicas
    names = Names(first, second)
    caller = connect(form.format(name), resolver=names, resolve_every_s=0.05)
    until(lambda: caller.values(1) == [2] and bool(first.requests) and bool(second.requests))
    names.set(second, third)
    until(lambda: caller.values(1) == [2] and bool(third.requests))
    forget([first])
    assert caller.values(20) == [2] * 20
    assert not first.requests
    assert len(caller.statistics().replicas) == 2


def test_a_call_on_a_replica_that_vanished_ends_well(replicas: tuple[str, list[Any]], connect: Any) -> None:
    name, (first, second, _) = replicas
    names = Names(first)
    caller = connect(name, resolver=names, resolve_every_s=0.05)
    assert caller.values(1) == [2]
    names.set(second)
    begun = names.hold = threading.Event()

    def slow(request: Any, context: grpc.ServicerContext) -> None:
        if not begun.is_set():
            begun.set()
            until(lambda: bool(second.requests))

    first.hook = slow
    time.sleep(0.1)
    # The first call goes to the old replica and starts the resolver; it is still under way when others go to the new one.
    assert caller.values(40, at_once=4) == [2] * 40
    assert list(caller.statistics().replicas) == [f"{second.ip}:{first.port}"]
    assert caller.statistics().attempts == 41


def test_a_name_that_does_not_resolve_is_no_end(replicas: tuple[str, list[Any]], connect: Any) -> None:
    name, (first, *_) = replicas
    names = Names()
    caller = connect(name, resolver=names, max_attempts=2, initial_backoff_s=0.001)
    assert caller.values(1) == [None]
    names.set(first)
    assert caller.values(1) == [2]
    names.set()
    assert caller.values(3) == [2] * 3


def test_failures_ask_the_resolver_at_once(replicas: tuple[str, list[Any]], connect: Any) -> None:
    name, (first, second, third) = replicas
    names = Names(first, second)
    caller = connect(name, resolver=names, resolve_every_s=60.0, initial_backoff_s=0.001, eject_after=1)
    assert caller.values(4) == [2] * 4
    names.set(second, third)
    first.stop()
    until(lambda: caller.values(1) == [2] and bool(third.requests))
    assert names.asked == 2
