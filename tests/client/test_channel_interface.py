"""The channels as grpc's own: every kind of call, futures, interceptors, connectivity, closing."""

import asyncio
import gc
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio

from rewardmesh.client import ChannelOptions, open_aio_channel, open_channel

BUSY = (("x-busy", "1"),)


class Echo:
    """A generic server of bytes: all four kinds of calls, and `Wait`, which waits until released."""

    def __init__(self, address: str = "127.0.0.1:0") -> None:
        self.released = threading.Event()
        self.waiting = threading.Event()
        handlers: dict[str, Any] = {
            "One": grpc.unary_unary_rpc_method_handler(self.one),
            "Wait": grpc.unary_unary_rpc_method_handler(self.wait),
            "Many": grpc.unary_stream_rpc_method_handler(lambda request, context: (request[i : i + 1] for i in range(len(request)))),
            "Join": grpc.stream_unary_rpc_method_handler(lambda requests, context: b"".join(requests)),
            "Both": grpc.stream_stream_rpc_method_handler(lambda requests, context: requests),
        }
        self.server = grpc.server(ThreadPoolExecutor(8))
        self.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", handlers),))
        self.port = self.server.add_insecure_port(address)
        self.server.start()

    def one(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        if request == b"wrong":
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "is wrong")
        context.send_initial_metadata((("first", "1"),))
        context.set_trailing_metadata((("last", "1"),))
        return request

    def wait(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self.waiting.set()
        self.released.wait(10)
        return request


@pytest.fixture
def echoes() -> Iterator[list[Echo]]:
    servers = [Echo(), Echo()]
    yield servers
    for server in servers:
        server.released.set()
        server.server.stop(None).wait(10)


@pytest.fixture(params=[1, 2])
def target(request: pytest.FixtureRequest, echoes: list[Echo]) -> str:
    return ",".join(f"127.0.0.1:{echo.port}" for echo in echoes[: request.param])


def metadata(found: Any) -> dict[str, Any]:
    return dict(tuple(found))


def test_all_kinds_of_blocking_calls(target: str) -> None:
    with open_channel(target) as channel:
        one: Any = channel.unary_unary("/test.Echo/One")
        assert one(b"ab", timeout=5, metadata=BUSY) == b"ab"
        response, call = one.with_call(b"ab")
        assert (response, call.code(), metadata(call.trailing_metadata())) == (b"ab", grpc.StatusCode.OK, {"last": "1"})
        many: Any = channel.unary_stream("/test.Echo/Many")
        assert list(many(b"abc", timeout=5)) == [b"a", b"b", b"c"]
        join: Any = channel.stream_unary("/test.Echo/Join")
        assert join(iter([b"a", b"b"])) == b"ab"
        assert join.with_call(iter([b"a", b"b"]), timeout=5)[0] == b"ab"
        assert join.future(iter([b"a"])).result(5) == b"a"
        both: Any = channel.stream_stream("/test.Echo/Both")
        assert list(both(iter([b"a", b"b"]))) == [b"a", b"b"]
        with pytest.raises(grpc.RpcError) as caught:
            one(b"wrong")
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        found = channel.statistics()
        assert (found.calls, found.attempts, found.retries) == (8, 8, 0)
        assert all(replica.in_flight == 0 for replica in found.replicas.values())


async def test_all_kinds_of_asyncio_calls(target: str) -> None:
    async with open_aio_channel(target) as channel:
        one: Any = channel.unary_unary("/test.Echo/One")
        assert await one(b"ab", timeout=5, metadata=BUSY) == b"ab"
        call = one(b"ab", timeout=5)
        ended: list[Any] = []
        call.add_done_callback(ended.append)
        assert 0 < call.time_remaining() <= 5
        assert await call.code() is grpc.StatusCode.OK
        await call.wait_for_connection()
        assert metadata(await call.initial_metadata())["first"] == "1"
        assert metadata(await call.trailing_metadata()) == {"last": "1"}
        assert (await call, await call) == (b"ab", b"ab")
        assert (call.done(), call.cancelled(), call.cancel()) == (True, False, False)
        assert ended == [call]
        assert [reply async for reply in channel.unary_stream("/test.Echo/Many")(b"abc")] == [b"a", b"b", b"c"]

        async def letters() -> AsyncIterator[bytes]:
            yield b"a"
            yield b"b"

        join: Any = channel.stream_unary("/test.Echo/Join")
        assert await join(letters()) == b"ab"
        both: Any = channel.stream_stream("/test.Echo/Both")
        assert [reply async for reply in both(letters())] == [b"a", b"b"]
        failing = one(b"wrong")
        with pytest.raises(aio.AioRpcError, match="is wrong"):
            await failing
        assert await failing.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert await failing.details() == "is wrong"
        await asyncio.sleep(0.05)
        found = channel.statistics()
        assert (found.calls, found.attempts, found.retries) == (6, 6, 0)
        assert all(replica.in_flight == 0 for replica in found.replicas.values())


def test_futures(echoes: list[Echo], target: str) -> None:
    with open_channel(target) as channel:
        one: Any = channel.unary_unary("/test.Echo/One")
        future = one.future(b"ab", timeout=5)
        ended = threading.Event()
        future.add_done_callback(lambda done: ended.set())
        assert future.result(5) == b"ab"
        assert ended.wait(5)
        assert (future.exception(), future.traceback(), future.code()) == (None, None, grpc.StatusCode.OK)
        assert metadata(future.initial_metadata())["first"] == "1"
        assert metadata(future.trailing_metadata()) == {"last": "1"}
        assert (future.done(), future.running(), future.cancelled(), future.cancel()) == (True, False, False, False)
        failing = one.future(b"wrong")
        assert failing.exception(5).code() is grpc.StatusCode.INVALID_ARGUMENT
        assert failing.details() == "is wrong"
        wait: Any = channel.unary_unary("/test.Echo/Wait")
        waiting = wait.future(b"ab")
        with pytest.raises(grpc.FutureTimeoutError):
            waiting.result(0.05)
        assert waiting.running()
        assert waiting.cancel()
        with pytest.raises(grpc.FutureCancelledError):
            waiting.result(5)
        assert (waiting.cancelled(), waiting.code()) == (True, grpc.StatusCode.CANCELLED)


async def test_cancelling_an_asyncio_call(echoes: list[Echo], target: str) -> None:
    async with open_aio_channel(target) as channel:
        wait: Any = channel.unary_unary("/test.Echo/Wait")
        call = wait(b"ab")
        while not any(echo.waiting.is_set() for echo in echoes):  # noqa: ASYNC110 - the server is a thread
            await asyncio.sleep(0.01)
        assert call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert call.cancelled()
        assert await call.code() is grpc.StatusCode.CANCELLED
        assert all(replica.in_flight == 0 for replica in channel.statistics().replicas.values())
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(wait(b"ab"), 0.05)
        assert all(replica.in_flight == 0 for replica in channel.statistics().replicas.values())


@pytest.mark.parametrize("nowhere", ["127.0.0.1:1", "127.0.0.1:1,127.0.0.1:2"])
async def test_cancelling_while_a_retry_waits(nowhere: str) -> None:
    async with open_aio_channel(nowhere, ChannelOptions(initial_backoff_s=20.0, max_backoff_s=20.0)) as channel:
        one: Any = channel.unary_unary("/test.Echo/One")
        call = one(b"ab")
        awaiting = asyncio.ensure_future(one(b"ab"))
        while channel.statistics().attempts < 2:  # noqa: ASYNC110 - no event tells of an attempt
            await asyncio.sleep(0.01)
        waiting = asyncio.ensure_future(call.code())
        await asyncio.sleep(0.2)
        assert call.cancel()
        assert awaiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await awaiting
        assert await waiting is grpc.StatusCode.CANCELLED
        assert all(replica.in_flight == 0 for replica in channel.statistics().replicas.values())


async def test_several_await_one_call(echoes: list[Echo], target: str) -> None:
    async with open_aio_channel(target) as channel:
        call: Any = channel.unary_unary("/test.Echo/Wait")(b"ab")

        async def awaited() -> Any:
            return await call

        first, second = asyncio.ensure_future(awaited()), asyncio.ensure_future(awaited())
        await asyncio.to_thread(until, lambda: any(echo.waiting.is_set() for echo in echoes))
        assert not call.done()
        code = asyncio.ensure_future(call.code())
        for echo in echoes:
            echo.released.set()
        assert list(await asyncio.gather(first, second, code)) == [b"ab", b"ab", grpc.StatusCode.OK]


async def test_a_call_that_nobody_awaits_is_let_go(echoes: list[Echo], target: str) -> None:
    async with open_aio_channel(target) as channel:
        one: Any = channel.unary_unary("/test.Echo/One")
        one(b"ab")
        one(b"ab")
        await asyncio.sleep(0.1)
        gc.collect()
        assert all(replica.in_flight == 0 for replica in channel.statistics().replicas.values())


@pytest.mark.filterwarnings("error")
def test_a_stream_that_outlives_its_event_loop(target: str) -> None:
    left: list[Any] = []

    async def run() -> None:
        channel = open_aio_channel(target)
        left.extend([channel, channel.stream_stream("/test.Echo/Both")()])
        await asyncio.sleep(0.05)

    asyncio.run(run())
    left.clear()
    gc.collect()


class Tagging(grpc.UnaryUnaryClientInterceptor):  # type: ignore[misc,unused-ignore]
    """Counts the calls that pass."""

    def __init__(self) -> None:
        self.passed = 0

    def intercept_unary_unary(self, continuation: Callable[..., Any], details: Any, request: Any) -> Any:
        self.passed += 1
        return continuation(details, request)


def test_interceptors(target: str) -> None:
    tagging = Tagging()
    with open_channel(target) as channel:
        one: Any = grpc.intercept_channel(channel, tagging).unary_unary("/test.Echo/One")
        assert one(b"ab") == b"ab"
        assert one.future(b"ab").result(5) == b"ab"
    assert tagging.passed == 2


def test_connectivity(target: str) -> None:
    with open_channel(target) as channel:
        grpc.channel_ready_future(channel).result(10)
    with open_channel("127.0.0.1:1") as channel, pytest.raises(grpc.FutureTimeoutError):
        grpc.channel_ready_future(channel).result(0.3)


async def test_asyncio_connectivity(target: str) -> None:
    async with open_aio_channel(target) as channel:
        assert channel.get_state() is grpc.ChannelConnectivity.IDLE
        await asyncio.wait_for(channel.channel_ready(), 10)
        assert channel.get_state() is grpc.ChannelConnectivity.READY
    async with open_aio_channel("127.0.0.1:1") as channel:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(channel.channel_ready(), 0.3)


def test_closing(echoes: list[Echo], target: str) -> None:
    channel = open_channel(target, ChannelOptions(max_attempts=1))
    wait: Any = channel.unary_unary("/test.Echo/Wait")
    with ThreadPoolExecutor(1) as thread:
        pending = thread.submit(wait, b"ab")
        until(lambda: any(echo.waiting.is_set() for echo in echoes))
        channel.close()
        with pytest.raises(grpc.RpcError) as caught:
            pending.result(5)
    assert caught.value.code() is grpc.StatusCode.CANCELLED
    with pytest.raises(ValueError, match="closed channel"):
        wait(b"ab")
    channel.close()


async def test_closing_an_asyncio_channel(echoes: list[Echo], target: str) -> None:
    channel = open_aio_channel(target)
    wait: Any = channel.unary_unary("/test.Echo/Wait")
    call = wait(b"ab")
    await asyncio.to_thread(until, lambda: any(echo.waiting.is_set() for echo in echoes))
    await channel.close()
    with pytest.raises(asyncio.CancelledError):
        await call
    with pytest.raises(aio.UsageError):
        await wait(b"ab")
    await channel.close()


def until(done: Callable[[], bool]) -> None:
    limit = time.monotonic() + 10
    while not done():
        assert time.monotonic() < limit
        time.sleep(0.005)


def test_a_unix_socket_is_one_replica(tmp_path: Path) -> None:
    echo = Echo(f"unix:{tmp_path / 's'}")
    with open_channel(f"unix:{tmp_path / 's'}") as channel:
        one: Any = channel.unary_unary("/test.Echo/One")
        assert one(b"ab") == b"ab"
        assert list(channel.statistics().replicas) == [f"unix:{tmp_path / 's'}"]
    echo.server.stop(None).wait(10)


@pytest.mark.parametrize("method", ["ActivateVersion", "LoadVersion", "UnloadVersion"])
def test_what_changes_a_server_is_not_hedged(method: str, echoes: list[Echo], target: str) -> None:
    with open_channel(target, ChannelOptions(hedge_after_s=0.01)) as channel:
        change: Any = channel.unary_unary(f"/rewardmesh.v1.ModelService/{method}")
        with pytest.raises(grpc.RpcError) as caught:
            change(b"", timeout=5)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert channel.statistics().attempts == 1
