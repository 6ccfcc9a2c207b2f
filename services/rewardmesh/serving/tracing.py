"""OpenTelemetry spans through trainer → gateway → service; `traceparent` travels in the metadata."""

from __future__ import annotations

from collections.abc import Callable

import grpc
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.grpc import GrpcAioInstrumentorClient, aio_server_interceptor, filters
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

EXPORT_SECONDS = 2
"""Longest time an export may take; a server that stops waits no longer for a collector that is down."""


def configure_tracing(service: str, replica: str, otlp_endpoint: str | None) -> TracerProvider | None:
    """Export spans of servers and asyncio clients to an OTLP gRPC collector; None (spans cost nothing) without one.

    Once a process, before any channel is opened. Call `shutdown()` on the result to flush.
    """
    if otlp_endpoint is None:
        return None
    provider = TracerProvider(resource=Resource.create({"service.name": f"rewardmesh-{service}", "service.instance.id": replica}))
    insecure = not otlp_endpoint.startswith("https://")
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=otlp_endpoint, insecure=insecure, timeout=EXPORT_SECONDS)))
    trace.set_tracer_provider(provider)
    # Every asyncio channel opened from now on opens a span for its calls and sends `traceparent` along.
    GrpcAioInstrumentorClient(filter_=_no_health_checks()).instrument()
    return provider


def server_interceptor() -> grpc.aio.ServerInterceptor:
    """Opens a span for every call but health checks, as a child of the caller's."""
    interceptor: grpc.aio.ServerInterceptor = aio_server_interceptor(filter_=_no_health_checks())
    return interceptor


def _no_health_checks() -> Callable[[object], bool]:
    wanted: Callable[[object], bool] = filters.negate(filters.health_check())
    return wanted
