"""Spans from a caller's server through the service behind it, seen by a real collector."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from rewardmesh.client import AsyncClient
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import reward_service_pb2 as api


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps every span with the name of the service that sent it."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, Span]] = []
        self.address = ""

    async def Export(self, request: Any, context: Any) -> Any:
        """Collect."""
        for resource in request.resource_spans:
            attributes = {one.key: one.value.string_value for one in resource.resource.attributes}
            name = attributes["service.instance.id"]
            self.spans += [(name, span) for scope in resource.scope_spans for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    one = Collector()
    server = grpc.aio.server()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(one, server)  # type: ignore[no-untyped-call]
    one.address = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    yield one
    await server.stop(1)


async def test_one_trace_through_two_servers(spawn: Any, collector: Collector) -> None:
    traced = ("--otlp-endpoint", collector.address)
    back = await spawn(*traced, "--replica", "back")
    front = await spawn(*traced, "--replica", "front", "--backend", back.address)
    async with AsyncClient(front.address) as client:
        assert await client.health() == "SERVING"
        reply = await client.reward.Score(api.ScoreRequest(samples=[pb.Sample(id="a")]), metadata=(("x-request-id", "mine"),))
        assert reply.outcomes[0].provenance.replica == "mine", "the request id travels with the call"
    assert await front.terminate() == await back.terminate() == 0
    kinds = {(name, span.kind): span for name, span in collector.spans}
    outer = kinds["front", Span.SPAN_KIND_SERVER]
    calling = kinds["front", Span.SPAN_KIND_CLIENT]
    inner = kinds["back", Span.SPAN_KIND_SERVER]
    assert outer.trace_id == calling.trace_id == inner.trace_id
    assert calling.parent_span_id == outer.span_id
    assert inner.parent_span_id == calling.span_id
    assert not any("Health" in span.name for _, span in collector.spans)


async def test_the_caller_s_own_trace_goes_on(spawn: Any, collector: Collector) -> None:
    toy = await spawn("--otlp-endpoint", collector.address)
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    async with AsyncClient(toy.address) as client:
        await client.reward.Score(api.ScoreRequest(), metadata=(("traceparent", f"00-{trace_id}-b7ad6b7169203331-01"),))
    assert await toy.terminate() == 0
    [(_, span)] = collector.spans
    assert span.trace_id.hex() == trace_id
    assert span.parent_span_id.hex() == "b7ad6b7169203331"


async def test_a_collector_that_is_down_costs_no_call(spawn: Any) -> None:
    toy = await spawn("--otlp-endpoint", "http://127.0.0.1:1")
    async with AsyncClient(toy.address) as client:
        await client.reward.Score(api.ScoreRequest())
    assert await toy.terminate() == 0
