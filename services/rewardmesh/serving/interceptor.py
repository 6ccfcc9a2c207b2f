"""What happens around every call: request id, log line, metrics, and exceptions into statuses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import grpc
import structlog
from google.protobuf.message import DecodeError
from grpc_status import rpc_status

from rewardmesh.serving import metrics
from rewardmesh.serving.context import REQUEST_ID_KEY, CallContext, begin_request, priority, remaining_s
from rewardmesh.serving.errors import CallError, invalid_argument
from rewardmesh.serving.logs import get_logger

log = get_logger(__name__)

Load = Callable[[], tuple[int, float]]
"""Gives (tokens queued, estimated wait in seconds) for least-loaded choice by clients."""


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every handler of a server; health and reflection pass untouched."""

    def __init__(self, load: Load) -> None:
        self._load = load

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Replace the handler by one that is observed."""
        handler = await continuation(handler_call_details)
        service, _, method = handler_call_details.method.lstrip("/").partition("/")
        if handler is None or service.startswith("grpc."):
            return handler
        if handler.response_streaming:
            kind = grpc.stream_stream_rpc_method_handler if handler.request_streaming else grpc.unary_stream_rpc_method_handler
            inner = handler.stream_stream or handler.unary_stream

            async def stream(request: Any, context: CallContext) -> AsyncIterator[Any]:
                # Closed at once when the caller goes, so that what it does for the caller ends too.
                async with self._observed(service, method, context), aclosing(inner(_decoded(request, handler), context)) as replies:
                    async for reply in replies:
                        yield reply

            return kind(stream, None, handler.response_serializer)
        kind_unary = grpc.stream_unary_rpc_method_handler if handler.request_streaming else grpc.unary_unary_rpc_method_handler
        inner_unary = handler.stream_unary or handler.unary_unary

        async def unary(request: Any, context: CallContext) -> Any:
            async with self._observed(service, method, context):
                return await inner_unary(_decoded(request, handler), context)

        return kind_unary(unary, None, handler.response_serializer)

    @asynccontextmanager
    async def _observed(self, service: str, method: str, context: CallContext) -> AsyncIterator[None]:
        request_id = begin_request(context)
        structlog.contextvars.bind_contextvars(request_id=request_id)
        watch = metrics.Stopwatch()
        code = grpc.StatusCode.OK
        try:
            priority(context)
            yield
        except CallError as error:
            code = error.code
            log.info("call refused", method=f"{service}/{method}", code=code.name, reason=error.message)
            status = rpc_status.to_status(error.to_status())
            await context.abort(status.code, status.details, (*status.trailing_metadata, *self._trailers(request_id)))
        except (asyncio.CancelledError, GeneratorExit):
            remaining = remaining_s(context)
            code = grpc.StatusCode.DEADLINE_EXCEEDED if remaining is not None and remaining <= 0 else grpc.StatusCode.CANCELLED
            raise
        except grpc.aio.AbortError:
            code = context.code() or grpc.StatusCode.UNKNOWN
            raise
        except Exception as error:  # the last wall: a bug answers INTERNAL and is logged, the server lives
            code = grpc.StatusCode.INTERNAL
            log.exception("call failed", method=f"{service}/{method}")
            details = f"{type(error).__name__} in {method}; see the log of request {request_id}"
            await context.abort(code, details, self._trailers(request_id))
        else:
            context.set_trailing_metadata(self._trailers(request_id))
        finally:
            metrics.REQUESTS.labels(service, method, code.name).inc()
            metrics.REQUEST_SECONDS.labels(service, method).observe(watch.seconds)
            log.debug("call", method=f"{service}/{method}", code=code.name, seconds=round(watch.seconds, 4))

    def _trailers(self, request_id: str) -> tuple[tuple[str, str], ...]:
        tokens, wait_s = self._load()
        return (REQUEST_ID_KEY, request_id), ("x-queue-tokens", str(tokens)), ("x-estimated-wait-ms", str(round(wait_s * 1e3)))


def _decoded(request: Any, handler: Any) -> Any:
    """The request as a message (or a stream of them): decoded here, so that bytes that are none get a status that says so."""
    if not handler.request_streaming:
        return _decode(request, handler.request_deserializer)

    async def messages() -> AsyncIterator[Any]:
        async for data in request:
            yield _decode(data, handler.request_deserializer)

    return messages()


def _decode(data: bytes, deserializer: Callable[[bytes], Any]) -> Any:
    try:
        return deserializer(data)
    except DecodeError as error:
        raise invalid_argument("request", f"cannot be decoded, is every string UTF-8? ({error})") from error
