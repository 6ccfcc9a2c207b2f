"""OpenTelemetry spans through trainer → gateway → service; `traceparent` travels in the metadata."""

from __future__ import annotations

from collections.abc import Sequence

import grpc
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.grpc import aio_client_interceptors, aio_server_interceptor, filters
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor


def configure_tracing(service: str, replica: str, otlp_endpoint: str | None) -> TracerProvider | None:
    """Export spans to an OTLP gRPC collector; None (spans cost nothing) without one. Call `shutdown()` on the result to flush."""
    if otlp_endpoint is None:
        return None
    provider = TracerProvider(resource=Resource.create({"service.name": f"rewardmesh-{service}", "service.instance.id": replica}))
    insecure = not otlp_endpoint.startswith("https://")
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=otlp_endpoint, insecure=insecure)))
    trace.set_tracer_provider(provider)
    return provider


def server_interceptor() -> grpc.aio.ServerInterceptor:
    """Opens a span for every call but health checks, as a child of the caller's."""
    interceptor: grpc.aio.ServerInterceptor = aio_server_interceptor(filter_=filters.negate(filters.health_check()))
    return interceptor


def client_interceptors() -> Sequence[grpc.aio.ClientInterceptor]:
    """Open a span for every outgoing call and send `traceparent` along."""
    interceptors: Sequence[grpc.aio.ClientInterceptor] = aio_client_interceptors(filter_=filters.negate(filters.health_check()))
    return interceptors
