"""The service on the wire."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from prometheus_client import REGISTRY

from rewardmesh.serving import Server
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import verifier_service_pb2 as verifier_pb
from rewardmesh.verifier.registry import discover

Start = Callable[..., Awaitable[tuple[Server, Any]]]
RequestOf = Callable[..., verifier_pb.VerifyRequest]


def absence_reasons(response: verifier_pb.VerifyResponse) -> list[str]:
    return [
        pb.AbsenceReason.Name(outcome.absence.reason).removeprefix("ABSENCE_REASON_") if outcome.HasField("absence") else "present"
        for outcome in response.outcomes
    ]


def details(error: grpc.aio.AioRpcError) -> list[Any]:
    found = []
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            for packed in status_pb2.Status.FromString(value).details:
                for kind in (error_details_pb2.BadRequest, error_details_pb2.RetryInfo):
                    if packed.Is(kind.DESCRIPTOR):
                        message = kind()
                        packed.Unpack(message)
                        found.append(message)
    return found


async def refused(call: Any, code: grpc.StatusCode) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is code, caught.value
    return caught.value


async def test_verdicts_come_in_order_with_where_they_came_from(start: Start, request_of: RequestOf) -> None:
    _, stub = await start(replica="v1")
    response = await stub.Verify(request_of("math", ["line\nA: 18", "A: 17", ""], "#### 18"), timeout=20)
    assert [outcome.sample_id for outcome in response.outcomes] == ["0", "1", "2"]
    first, second, third = (outcome.verdict for outcome in response.outcomes)
    assert (first.status, first.score, first.extracted_answer) == (verifier_pb.VERDICT_STATUS_PASS, 1.0, "18")
    assert (first.location.line, first.location.span.start, first.location.span.end) == (2, 8, 10)
    assert (second.status, second.score) == (verifier_pb.VERDICT_STATUS_FAIL, 0.0)
    assert (third.status, third.evidence) == (verifier_pb.VERDICT_STATUS_FAIL, "the completion states no answer that can be read")
    provenance = response.outcomes[0].provenance
    assert (provenance.service, provenance.replica) == ("rewardmesh.v1.VerifierService", "v1")
    assert provenance.queue_seconds > 0
    assert provenance.compute_seconds > 0
    labels = {"service": "rewardmesh.v1.VerifierService", "model": "math", "outcome": "present"}
    assert (REGISTRY.get_sample_value("rewardmesh_items_total", labels) or 0) >= 3
    assert not (await stub.Verify(request_of("math", []), timeout=20)).outcomes


async def test_verifiers_are_listed_with_their_options(start: Start) -> None:
    _, stub = await start()
    listed = (await stub.ListVerifiers(verifier_pb.ListVerifiersRequest(), timeout=20)).verifiers
    assert [info.name for info in listed] == list(discover())
    (found,) = (info for info in listed if info.name == "math")
    assert list(found.needs) == ["completion.text", "references"]
    assert {"answer_marker", "on_missing_answer", "on_timeout"} <= set(json.loads(found.options_schema)["properties"])


async def test_mistakes_of_the_call_are_statuses(start: Start, request_of: RequestOf) -> None:
    _, stub = await start(max_queue_items=10)
    unknown = await refused(stub.Verify(request_of("maths", ["x"])), grpc.StatusCode.NOT_FOUND)
    assert unknown.details() == f"no verifier named 'maths'; known: {', '.join(discover())}"
    wrong = request_of("math", ["x"], marker="A:", on_missing_answer="maybe")
    error = await refused(stub.Verify(wrong), grpc.StatusCode.INVALID_ARGUMENT)
    (bad,) = details(error)
    assert {violation.field for violation in bad.field_violations} == {"options.marker", "options.on_missing_answer"}
    assert "unknown option; known: on_timeout, answer_marker, on_missing_answer" in (error.details() or "")
    infinite = await refused(stub.Verify(request_of("length", ["x"], maximum=float("inf"))), grpc.StatusCode.INVALID_ARGUMENT)
    assert (infinite.details() or "").startswith("options")
    twice = request_of("math", ["x", "y"])
    twice.samples[1].id = "0"
    error = await refused(stub.Verify(twice), grpc.StatusCode.INVALID_ARGUMENT)
    assert "samples[1].id" in (error.details() or "")
    await refused(stub.Verify(request_of("math", ["x"] * 11)), grpc.StatusCode.INVALID_ARGUMENT)


async def test_mistakes_of_an_item_are_absences(start: Start, request_of: RequestOf) -> None:
    _, stub = await start()
    request = request_of("math", ["A: 5"] * 6, "5")
    del request.samples[0].references[:]
    request.samples[1].references[:] = ["this is not a number"]
    request.samples[2].ClearField("completion")
    request.samples[3].prompt.add(content="no role")
    request.samples[4].completion.token_ids.CopyFrom(pb.Int32Array(data=b"12345", length=1))
    response = await stub.Verify(request, timeout=20)
    expected = ["NOT_APPLICABLE", "INVALID_INPUT", "INVALID_INPUT", "INVALID_INPUT", "INVALID_INPUT", "present"]
    assert absence_reasons(response) == expected
    assert response.outcomes[3].absence.detail == "prompt[0].role: is unset or unknown (0)"


async def test_a_huge_text_is_too_long_and_its_neighbour_unharmed(start: Start, request_of: RequestOf) -> None:
    _, stub = await start()
    response = await stub.Verify(request_of("math", ["A: 5" * 2_500_000, "A: 5"], "5"), timeout=30)
    assert absence_reasons(response) == ["TOO_LONG", "present"]
    assert "10000001 bytes" in response.outcomes[0].absence.detail


async def test_hostile_mathematics_does_not_stop_the_server(start: Start, request_of: RequestOf) -> None:
    _, stub = await start(item_timeout_seconds=0.5)
    hostile = ["#### 9**9**9**9", "$9^{9^{9^{9}}}$", "A: " + "(" * 20_000 + "1" + ")" * 20_000, "$" + "\\frac{1}{" * 5_000, "A: 5"]
    response = await stub.Verify(request_of("math", hostile, "5"), timeout=60)
    assert absence_reasons(response)[:2] == ["DEADLINE", "DEADLINE"]
    assert response.outcomes[-1].verdict.status == verifier_pb.VERDICT_STATUS_PASS


async def test_bytes_that_are_no_utf8_have_a_clear_status(start: Start) -> None:
    server, stub = await start()
    async with grpc.aio.insecure_channel(server.address) as channel:
        call = channel.unary_unary("/rewardmesh.v1.VerifierService/Verify", request_serializer=bytes, response_deserializer=bytes)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(b"\x0a\x04\xff\xfe\xfd\xfc", timeout=20)
    # Before the interceptor reads the message itself, gRPC answers UNKNOWN with the decoder's words.
    assert caught.value.code() in {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNKNOWN}
    assert "VerifyRequest" in (caught.value.details() or "")
    assert (await stub.ListVerifiers(verifier_pb.ListVerifiersRequest(), timeout=20)).verifiers


async def test_a_full_queue_answers_with_a_time_to_retry(start: Start, request_of: RequestOf, hostile: str) -> None:
    _, stub = await start(max_queue_items=50, verifier_packages=(hostile,))
    first = stub.Verify(request_of("slow", ["x"] * 50), timeout=30)
    await asyncio.sleep(0.3)
    error = await refused(stub.Verify(request_of("slow", ["x"] * 50), timeout=30), grpc.StatusCode.RESOURCE_EXHAUSTED)
    (retry,) = details(error)
    assert retry.retry_delay.ToTimedelta().total_seconds() > 0
    assert len((await first).outcomes) == 50


async def test_a_cancelled_call_frees_the_queue(start: Start, request_of: RequestOf, hostile: str) -> None:
    _, stub = await start(replica="cancelled", verifier_packages=(hostile,))
    call = stub.Verify(request_of("slow", ["x"] * 400))
    await asyncio.sleep(0.3)
    assert (REGISTRY.get_sample_value("rewardmesh_verifier_queue_items", {"replica": "cancelled"}) or 0) > 0
    call.cancel()
    began = time.monotonic()
    assert len((await stub.Verify(request_of("slow", ["x"]), timeout=20)).outcomes) == 1
    assert time.monotonic() - began < 2
    assert REGISTRY.get_sample_value("rewardmesh_verifier_queue_items", {"replica": "cancelled"}) == 0


async def test_a_deadline_still_brings_what_is_done(start: Start, request_of: RequestOf, hostile: str) -> None:
    _, stub = await start(verifier_packages=(hostile,))
    response = await stub.Verify(request_of("slow", ["x"] * 100), timeout=1.0)
    found = absence_reasons(response)
    assert found[0] == "present"
    assert found[-1] == "DEADLINE"
    assert response.outcomes[-1].absence.retryable


async def test_stopping_lets_calls_finish_and_leaves_no_process(
    start: Start, request_of: RequestOf, hostile: str, worker_pids: Callable[[], list[int]]
) -> None:
    server, stub = await start(workers=2, verifier_packages=(hostile,))
    assert len(worker_pids()) == 2
    call = stub.Verify(request_of("slow", ["x"] * 30), timeout=30)
    await asyncio.sleep(0.3)
    stopping = asyncio.create_task(server.stop())
    assert absence_reasons(await call) == ["present"] * 30
    await stopping
    assert worker_pids() == []
