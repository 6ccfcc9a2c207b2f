"""StreamEvaluate: groups in, answers as they resolve, back-pressure, cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from rewardmesh.v1 import mesh_service_pb2 as mesh

PROGRAM = "name: p\nsignals: {correct: {verifier: math}}\nreward: correct\n"


async def test_groups_are_answered_as_they_resolve(gateway: Any, backend: Any, everywhere: Any, group: Any) -> None:
    released = asyncio.Event()

    async def hold_a(request: Any, context: Any) -> None:
        if request.samples[0].id == "a0":
            await released.wait()

    backend.hook = hold_a
    stub = await gateway(PROGRAM, everywhere)
    call = stub.StreamEvaluate(timeout=20)
    await call.write(
        mesh.StreamEvaluateRequest(
            options=mesh.EvaluateOptions(program="p"), samples=[*group("a", "math=1", "math=0"), *group("b", "math=1")]
        )
    )
    first = await call.read()
    assert [each.outcome.sample_id for each in first.evaluations] == ["b0"]
    await call.write(mesh.StreamEvaluateRequest(samples=group("c", "math=0")))
    second = await call.read()
    assert [each.outcome.sample_id for each in second.evaluations] == ["c0"]
    released.set()
    await call.done_writing()
    third = await call.read()
    assert [each.outcome.reward.value for each in third.evaluations] == [1.0, 0.0]
    assert third.program_fingerprint == first.program_fingerprint != ""
    assert await call.read() is grpc.aio.EOF


async def test_no_more_groups_are_read_than_may_be_in_flight(gateway: Any, backend: Any, everywhere: Any, group: Any) -> None:
    running = most = 0

    async def count(request: Any, context: Any) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.02)
        running -= 1

    backend.hook = count
    stub = await gateway(PROGRAM, everywhere, groups_in_flight=2)

    async def requests() -> AsyncIterator[mesh.StreamEvaluateRequest]:
        for index in range(8):
            yield mesh.StreamEvaluateRequest(samples=[*group(f"x{index}", "math=1"), *group(f"y{index}", "math=1")])

    replies = [reply async for reply in stub.StreamEvaluate(requests(), timeout=20)]
    assert len({reply.evaluations[0].outcome.sample_id for reply in replies}) == len(replies) == 16
    assert most == 2


async def test_a_cancelled_stream_cancels_the_backends_calls(gateway: Any, backend: Any, everywhere: Any, group: Any) -> None:
    reached, gone = asyncio.Event(), asyncio.Event()

    async def hang(request: Any, context: Any) -> None:
        reached.set()
        try:
            await asyncio.sleep(30)
        finally:
            gone.set()

    backend.hook = hang
    stub = await gateway(PROGRAM, everywhere)
    call = stub.StreamEvaluate(timeout=60)
    await call.write(mesh.StreamEvaluateRequest(samples=group("a", "math=1")))
    await asyncio.wait_for(reached.wait(), 10)
    call.cancel()
    await asyncio.wait_for(gone.wait(), 10)


async def test_a_cancelled_call_cancels_the_backends_calls(gateway: Any, backend: Any, everywhere: Any, group: Any) -> None:
    reached, gone = asyncio.Event(), asyncio.Event()

    async def hang(request: Any, context: Any) -> None:
        reached.set()
        try:
            await asyncio.sleep(30)
        finally:
            gone.set()

    backend.hook = hang
    stub = await gateway(PROGRAM, everywhere)
    call = stub.Evaluate(mesh.EvaluateRequest(samples=group("a", "math=1")), timeout=60)
    waiting = asyncio.ensure_future(call)
    await asyncio.wait_for(reached.wait(), 10)
    waiting.cancel()
    await asyncio.wait_for(gone.wait(), 10)
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_an_empty_stream_has_an_empty_answer(gateway: Any, everywhere: Any) -> None:
    stub = await gateway(PROGRAM, everywhere)
    call = stub.StreamEvaluate(timeout=10)
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF


@pytest.mark.parametrize(
    ("messages", "code", "words"),
    [
        ([("nosuch", [("a", "x")])], grpc.StatusCode.NOT_FOUND, "known: p"),
        ([("p", [("a", "x")]), ("p", [("b", "y")])], grpc.StatusCode.INVALID_ARGUMENT, "options: may only be in the first message"),
        ([("p", [("a", "x")]), (None, [("b", "x")])], grpc.StatusCode.INVALID_ARGUMENT, "group 'x' was already sent"),
        ([("p", [("a", "x")]), (None, [("a", "y")])], grpc.StatusCode.INVALID_ARGUMENT, "'a' was already sent"),
        ([("p", [("a", "x"), ("", "x")])], grpc.StatusCode.INVALID_ARGUMENT, "samples[1].id: must not be empty"),
    ],
)
async def test_wrong_streams_are_refused(
    gateway: Any, everywhere: Any, messages: list[tuple[str | None, list[tuple[str, str]]]], code: grpc.StatusCode, words: str
) -> None:
    stub = await gateway(PROGRAM, everywhere)

    async def requests() -> AsyncIterator[mesh.StreamEvaluateRequest]:
        for program, samples in messages:
            request = mesh.StreamEvaluateRequest()
            if program is not None:
                request.options.program = program
            for name, group_id in samples:
                request.samples.add(id=name, group_id=group_id).completion.text = "math=1"
            yield request

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in stub.StreamEvaluate(requests(), timeout=10):
            pass
    assert caught.value.code() is code
    assert words in (caught.value.details() or "")
