"""`stream_verify` of both clients against a real server."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest

from rewardmesh.client import AbsenceReason, AsyncClient, CallFailed, Client, Verdict, sample
from rewardmesh.client._verify_stream import stream_verify, stream_verify_async
from rewardmesh.serving import Server
from rewardmesh.v1.common_pb2 import Sample

Start = Callable[..., Awaitable[tuple[Server, Any]]]


def item(n: int) -> Sample:
    return sample(str(n), "What is 2 + 2?", "4" if n % 2 else "5", references=["4"])


async def items(count: int) -> AsyncIterator[Sample]:
    for n in range(count):
        yield item(n)


async def test_one_verdict_a_sample(start: Start) -> None:
    server, _ = await start()
    async with AsyncClient(server.address) as client:
        for samples in ([item(n) for n in range(1000)], (item(n) for n in range(1000)), items(1000)):
            found = [verdict async for verdict in stream_verify_async(client, samples, "exact-match", chunk_items=100)]
            assert {verdict.sample_id: verdict.value for verdict in found} == {str(n): float(n % 2) for n in range(1000)}
            assert len(found) == 1000
        found = [verdict async for verdict in stream_verify_async(client, [], "exact-match")]
        assert found == []


async def test_a_sample_does_not_wait_for_the_next(start: Start) -> None:
    server, _ = await start()
    answered = asyncio.Event()

    async def one_by_one() -> AsyncIterator[Sample]:
        for n in range(3):
            yield item(n)
            await answered.wait()
            answered.clear()

    async with AsyncClient(server.address) as client:
        order = []
        async for verdict in stream_verify_async(client, one_by_one(), "exact-match"):
            order.append(verdict.sample_id)
            answered.set()
        assert order == ["0", "1", "2"]


async def test_the_callers_mistakes_are_raised(start: Start) -> None:
    server, _ = await start()

    async def broken() -> AsyncIterator[Sample]:
        yield item(0)
        raise LookupError("the caller's own")

    async with AsyncClient(server.address) as client:
        with pytest.raises(CallFailed, match="no verifier named 'maths'"):
            _ = [verdict async for verdict in stream_verify_async(client, [item(0)], "maths")]
        with pytest.raises(CallFailed, match="unknown option"):
            _ = [verdict async for verdict in stream_verify_async(client, [item(0)], "math", options={"marker": "A:"})]
        with pytest.raises(ValueError, match="duplicate sample id '0'"):
            _ = [verdict async for verdict in stream_verify_async(client, [item(0), item(0)], "math")]
        with pytest.raises(LookupError, match="the caller's own"):
            _ = [verdict async for verdict in stream_verify_async(client, broken(), "math")]


async def test_a_broken_stream_leaves_absences(start: Start, hostile: str) -> None:
    server, _ = await start(verifier_packages=(hostile,), drain_seconds=0.0)
    async with AsyncClient(server.address) as client:
        found = []
        stopping: asyncio.Task[None] | None = None
        async for verdict in stream_verify_async(client, items(300), "slow", chunk_items=50):
            found.append(verdict)
            stopping = stopping or asyncio.ensure_future(server.stop())
        assert stopping
        await stopping
    assert sorted(int(verdict.sample_id) for verdict in found) == list(range(300))
    lost = [verdict for verdict in found if verdict.absence]
    assert lost
    assert {verdict.absence.reason for verdict in lost if verdict.absence} == {AbsenceReason.INFRASTRUCTURE}
    assert all(verdict.value is None for verdict in lost)


async def test_a_broken_stream_goes_on_elsewhere(start: Start, hostile: str) -> None:
    servers = {}
    for name in ("a", "b"):
        server, _ = await start(verifier_packages=(hostile,), drain_seconds=0.0, replica=name)
        servers[name] = server

    def talk() -> list[Verdict]:
        with Client(",".join(server.address for server in servers.values())) as client:
            return list(stream_verify(client, (item(n) for n in range(60)), "slow", chunk_items=20))

    async with AsyncClient(",".join(server.address for server in servers.values())) as client:
        blocking = asyncio.ensure_future(asyncio.to_thread(talk))
        found = []
        async for verdict in stream_verify_async(client, items(60), "slow", chunk_items=20):
            found.append(verdict)
            if len(found) == 5:
                await servers.pop(verdict.message.provenance.replica).stop()
    for verdicts in (found, await blocking):
        assert sorted(int(verdict.sample_id) for verdict in verdicts) == list(range(60))
        assert all(verdict.value == 1.0 for verdict in verdicts)
    assert len({verdict.message.provenance.replica for verdict in found}) == 2


async def test_a_stream_longer_than_a_server_allows_goes_on_as_another(start: Start) -> None:
    server, _ = await start(max_stream_items=1000)
    async with AsyncClient(server.address) as client:
        found = [verdict async for verdict in stream_verify_async(client, [item(n) for n in range(2500)], "exact-match")]
    assert {verdict.sample_id: verdict.value for verdict in found} == {str(n): float(n % 2) for n in range(2500)}
    assert len(found) == 2500


async def test_a_caller_that_leaves_ends_the_stream(start: Start, hostile: str) -> None:
    server, _ = await start(verifier_packages=(hostile,))
    closed = asyncio.Event()

    async def endless() -> AsyncIterator[Sample]:
        n = 0
        try:
            while True:
                yield item(n)
                n += 1
                await asyncio.sleep(0.001)
        finally:
            closed.set()

    async with AsyncClient(server.address) as client:
        stream = stream_verify_async(client, endless(), "slow")
        assert (await anext(stream)).value == 1.0
        await stream.aclose()
        await asyncio.wait_for(closed.wait(), 5)


async def test_the_blocking_client(start: Start) -> None:
    server, _ = await start()
    answered = threading.Semaphore(0)

    def one_by_one() -> Iterator[Sample]:
        for n in range(3):
            yield item(n)
            assert answered.acquire(timeout=10)

    def broken() -> Iterator[Sample]:
        yield item(0)
        raise LookupError("the caller's own")

    def talk() -> None:
        with Client(server.address) as client:
            for samples in ([item(n) for n in range(1000)], (item(n) for n in range(1000))):
                found = {verdict.sample_id: verdict.value for verdict in stream_verify(client, samples, "exact-match")}
                assert found == {str(n): float(n % 2) for n in range(1000)}
            order = []
            for verdict in stream_verify(client, one_by_one(), "exact-match"):
                order.append(verdict.sample_id)
                answered.release()
            assert order == ["0", "1", "2"]
            with pytest.raises(CallFailed, match="no verifier named 'maths'"):
                list(stream_verify(client, [item(0)], "maths"))
            with pytest.raises(ValueError, match="duplicate sample id"):
                list(stream_verify(client, [item(0), item(0)], "exact-match"))
            with pytest.raises(LookupError, match="the caller's own"):
                list(stream_verify(client, broken(), "exact-match"))
            stream = stream_verify(client, (item(n) for n in range(10**9)), "exact-match")
            assert next(stream).sample_id == "0"
            stream.close()
            assert len(list(stream_verify(client, [item(0)], "exact-match"))) == 1

    await asyncio.to_thread(talk)


async def test_the_blocking_clients_broken_stream_leaves_absences(start: Start, hostile: str) -> None:
    server, _ = await start(verifier_packages=(hostile,), drain_seconds=0.0)
    begun = threading.Event()

    def talk() -> list[str | None]:
        found = []
        with Client(server.address) as client:
            for verdict in stream_verify(client, (item(n) for n in range(200)), "slow", chunk_items=20):
                found.append(verdict)
                begun.set()
        assert sorted(int(verdict.sample_id) for verdict in found) == list(range(200))
        return [verdict.absence.reason if verdict.absence else None for verdict in found]

    talking = asyncio.ensure_future(asyncio.to_thread(talk))
    assert await asyncio.to_thread(begun.wait, 20)
    await server.stop()
    reasons = await asyncio.wait_for(talking, 20)
    assert reasons[0] is None
    assert reasons[-1] == "INFRASTRUCTURE"
