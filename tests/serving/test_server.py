"""What every server does around its services: health, reflection, metrics, statuses, trailers, limits."""

from __future__ import annotations

import asyncio
import re
import urllib.request
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from rewardmesh.serving.server import LIVENESS
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import reward_service_pb2 as api
from toy_server import SERVICE


def request(*ids: str) -> api.ScoreRequest:
    return api.ScoreRequest(samples=[pb.Sample(id=one) for one in ids])


async def failing(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return error.value


def details(error: grpc.aio.AioRpcError, kind: Any) -> Any:
    """The rich detail of one kind."""
    status = rpc_status.from_call(error)
    assert status is not None
    assert status.message == error.details()
    [detail] = [one for one in status.details if one.Is(kind.DESCRIPTOR)]
    message = kind()
    detail.Unpack(message)
    return message


async def metrics_text(address: str) -> str:
    def read() -> str:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as reply:
            return str(reply.read().decode())

    return await asyncio.to_thread(read)


async def test_health_of_the_server_each_service_and_liveness(toy: Any) -> None:
    stub = health_pb2_grpc.HealthStub(toy.client.channel)
    for name in ("", LIVENESS, SERVICE):
        reply = await stub.Check(health_pb2.HealthCheckRequest(service=name))
        assert reply.status == health_pb2.HealthCheckResponse.SERVING
    error = await failing(stub.Check(health_pb2.HealthCheckRequest(service="rewardmesh.v1.Other")))
    assert error.code() is grpc.StatusCode.NOT_FOUND


async def test_reflection_lists_the_services_and_their_schema(toy: Any) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(toy.client.channel)
    asked = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE),
    ]
    listed, schema = [reply async for reply in stub.ServerReflectionInfo(iter(asked))]
    assert {SERVICE, "grpc.health.v1.Health"} <= {one.name for one in listed.list_services_response.service}
    assert any(b"StreamScores" in one for one in schema.file_descriptor_response.file_descriptor_proto)


async def test_metrics_are_valid_and_count_calls_by_code(toy: Any) -> None:
    await toy.client.reward.Score(request("a"))
    await failing(toy.client.reward.Score(request("refuse")))
    text = await metrics_text(toy.server.metrics_address)
    families = {family.name: family for family in text_string_to_metric_families(text)}
    counts = {
        sample.labels["code"]: sample.value
        for sample in families["rewardmesh_requests"].samples
        if sample.name == "rewardmesh_requests_total" and sample.labels["method"] == "Score"
    }
    assert counts["OK"] >= 1
    assert counts["INVALID_ARGUMENT"] >= 1
    assert {"rewardmesh_queue_seconds", "rewardmesh_batch_tokens", "rewardmesh_request_seconds"} <= set(families)


async def test_the_request_id_comes_back_with_the_load(toy: Any) -> None:
    call = toy.client.reward.Score(request("a"), metadata=(("x-request-id", "mine"),))
    reply = await call
    trailers = dict(await call.trailing_metadata())
    assert trailers["x-request-id"] == "mine" == reply.outcomes[0].provenance.replica
    assert (trailers["x-queue-tokens"], trailers["x-estimated-wait-ms"]) == ("12", "250")


async def test_a_call_without_an_id_gets_one(toy: Any) -> None:
    calls = [toy.client.reward.Score(request("a")) for _ in range(2)]
    await asyncio.gather(*calls)
    ids = {dict(await call.trailing_metadata())["x-request-id"] for call in calls}
    assert len(ids) == 2
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in ids)


async def test_a_refusal_names_the_field(toy: Any) -> None:
    error = await failing(toy.client.reward.Score(request("refuse"), metadata=(("x-request-id", "mine"),)))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    [violation] = details(error, error_details_pb2.BadRequest).field_violations
    assert (violation.field, violation.description) == ("samples[0].id", "asks to be refused")
    assert ("x-request-id", "mine") in tuple(error.trailing_metadata())


async def test_an_overloaded_server_says_when_to_come_back(run_toy: Any) -> None:
    async with run_toy() as toy, grpc.aio.insecure_channel(toy.server.address) as channel:
        call = channel.unary_unary(f"/{SERVICE}/Score", api.ScoreRequest.SerializeToString, api.ScoreResponse.FromString)
        error = await failing(call(request("full")))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    delay = details(error, error_details_pb2.RetryInfo).retry_delay
    assert (delay.seconds, delay.nanos) == (1, 500_000_000)


async def test_a_bug_is_internal_with_the_request_id_and_the_server_lives(toy: Any) -> None:
    with capture_logs() as lines:
        error = await failing(toy.client.reward.Score(request("boom"), metadata=(("x-request-id", "mine"),)))
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "RuntimeError" in (error.details() or "")
    assert "request mine" in (error.details() or "")
    assert "a bug" not in (error.details() or ""), "the message may hold what the caller must not see"
    assert any(line["event"] == "call failed" and line["exc_info"] for line in lines)
    assert len((await toy.client.reward.Score(request("a"))).outcomes) == 1


async def test_a_bug_in_a_stream_is_internal_after_the_answers_before_it(toy: Any) -> None:
    stream = toy.client.reward.StreamScores(iter([api.StreamScoresRequest(samples=request("a", "boom", "b").samples)]))
    assert (await stream.read()).outcome.sample_id == "a"
    with capture_logs():
        error = await failing(stream.read())
    assert error.code() is grpc.StatusCode.INTERNAL


@pytest.mark.parametrize("name", ["TRAINING", "interactive", "Batch"])
async def test_known_priorities(toy: Any, name: str) -> None:
    await toy.client.reward.Score(request("a"), metadata=(("x-priority", name),))


async def test_an_unknown_priority_is_refused_by_name(toy: Any) -> None:
    error = await failing(toy.client.reward.Score(request("a"), metadata=(("x-priority", "URGENT"),)))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "'URGENT' is unknown; one of INTERACTIVE, TRAINING, BATCH" in (error.details() or "")
    stream = toy.client.reward.StreamScores(iter([api.StreamScoresRequest()]), metadata=(("x-priority", "URGENT"),))
    with pytest.raises(grpc.aio.AioRpcError, match="URGENT"):
        await anext(aiter(stream))


async def test_bytes_that_are_no_message(toy: Any) -> None:
    call = toy.client.channel.unary_unary(f"/{SERVICE}/Score")
    bad_utf8 = request("id").SerializeToString().replace(b"id", b"\xff\xfe")
    for data in (b"\xff\xff", bad_utf8):
        error = await failing(call(data))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "cannot be decoded" in (error.details() or "")


async def test_an_unknown_method(toy: Any) -> None:
    error = await failing(toy.client.channel.unary_unary(f"/{SERVICE}/Guess")(b""))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_message_over_the_limit(run_toy: Any) -> None:
    async with run_toy(max_message_bytes=10_000) as toy:
        error = await failing(toy.client.reward.Score(request("x" * 20_000)))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "larger than max (20" in (error.details() or "")
        error = await failing(toy.client.reward.Score(request(*(str(n) for n in range(400)))))
        assert error.code() in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INTERNAL), "the reply is too large"
        assert len((await toy.client.reward.Score(request("a"))).outcomes) == 1


async def test_a_deadline_cancels_the_work(toy: Any) -> None:
    error = await failing(toy.client.reward.Score(request("slow 30"), timeout=0.2))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await asyncio.wait_for(toy.servicer.cancelled.wait(), 5)


async def test_a_caller_who_goes_cancels_the_work(toy: Any) -> None:
    call = toy.client.reward.Score(request("slow 30"))
    await asyncio.sleep(0.2)
    call.cancel()
    await asyncio.wait_for(toy.servicer.cancelled.wait(), 5)


async def test_a_stream_whose_reader_goes_is_closed(toy: Any) -> None:
    stream = toy.client.reward.StreamScores()
    await stream.write(api.StreamScoresRequest(samples=[pb.Sample(id="a")]))
    assert (await stream.read()).outcome.sample_id == "a"
    stream.cancel()
    await asyncio.wait_for(toy.servicer.closed.wait(), 5)


async def test_a_taken_port_is_said(toy: Any, run_toy: Any) -> None:
    port = int(toy.server.address.rpartition(":")[2])
    with pytest.raises(RuntimeError, match=f"{port}"):
        await run_toy(port=port).__aenter__()
    metrics = int(toy.server.metrics_address.rpartition(":")[2])
    with pytest.raises(RuntimeError, match=f"{metrics}"):
        await run_toy(metrics_port=metrics).__aenter__()


async def test_what_was_added_last_stops_first_and_only_once(run_toy: Any) -> None:
    stopped = []
    async with run_toy() as toy:
        for name in "ab":

            async def close(name: str = name) -> None:
                stopped.append(name)

            toy.server.on_stop(close)
        await toy.server.stop()
        await toy.server.stop()
    assert stopped == ["b", "a"]


async def test_draining_says_not_serving_first_and_finishes_the_work(run_toy: Any) -> None:
    async with run_toy(drain_seconds=10.0) as toy:
        stub = health_pb2_grpc.HealthStub(toy.client.channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        call = asyncio.ensure_future(toy.client.reward.Score(request("slow 0.5")))
        await asyncio.sleep(0.1)
        stopping = asyncio.create_task(toy.server.stop())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watch.cancel()
        assert not call.done()
        assert len((await call).outcomes) == 1
        await asyncio.wait_for(stopping, 5)


async def test_work_longer_than_the_drain_is_cut_off(run_toy: Any) -> None:
    async with run_toy(drain_seconds=0.3) as toy, grpc.aio.insecure_channel(toy.server.address) as channel:
        call = channel.unary_unary(f"/{SERVICE}/Score", api.ScoreRequest.SerializeToString, api.ScoreResponse.FromString)
        slow = asyncio.ensure_future(failing(call(request("slow 30"))))
        await asyncio.sleep(0.2)
        await asyncio.wait_for(toy.server.stop(), 5)
        assert (await slow).code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
