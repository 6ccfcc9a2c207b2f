"""Endpoints: what is asked where, and what happens around every request, as `interceptor` does it for gRPC calls."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import grpc
import structlog
from opentelemetry import propagate, trace
from opentelemetry.context import Context
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from rewardmesh.serving import metrics
from rewardmesh.serving.context import begin_request, priority
from rewardmesh.serving.errors import CallError
from rewardmesh.serving.http.body import CallerGoneError, HttpError, read_json, while_called
from rewardmesh.serving.http.caller import HttpCaller
from rewardmesh.serving.http.statuses import http_status, problem_body, problem_headers
from rewardmesh.serving.logs import get_logger

log = get_logger(__name__)
tracer = trace.get_tracer("rewardmesh.http")

B = TypeVar("B", bound=BaseModel)


@dataclass(frozen=True)
class Reply:
    """An answer. content: bytes and str go as they are, anything else as JSON."""

    content: Any
    status: int = 200
    media_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Received(Generic[B]):
    """A request that was read and checked."""

    body: B
    caller: HttpCaller
    path: Mapping[str, str]
    """The path's parameters."""


class Nothing(BaseModel):
    """The body of a request that has none."""


@dataclass(frozen=True)
class Endpoint(Generic[B]):
    """One thing to ask over HTTP.

    Attributes:
        method, path: "POST", "/v1/evaluate"; parameters of the path in braces.
        name: of the gRPC method it stands for, in metrics and as the operation's id.
        summary: one line for the documentation.
        answer: gives the reply; may raise CallError.
        body: shape of the request's body; None for none.
        reply: shape of the answer with status 200, for the documentation; None when it is no JSON.
        timeout_s: seconds that a body gives the call; past them it is answered with 504.
        example: a body, for the documentation.
        documented: whether the OpenAPI document has it.
    """

    method: str
    path: str
    name: str
    summary: str
    answer: Callable[[Received[B]], Awaitable[Reply]]
    body: type[B] | None = None
    reply: type[BaseModel] | None = None
    timeout_s: Callable[[B], float | None] = lambda _: None
    example: Any = None
    documented: bool = True


def build_app(endpoints: Sequence[Endpoint[Any]], *, service: str, limit_bytes: int, allow_nan: bool = False) -> Starlette:
    """An ASGI application of endpoints.

    Args:
        service: label of its requests in the metrics.
        limit_bytes: largest body.
        allow_nan: write NaN as a bare word, as Python does, though JSON has none; a reply that holds one is a fault otherwise.
    """
    routes = [
        Route(each.path, _observed(each, service, limit_bytes, allow_nan), methods=[each.method], name=each.name) for each in endpoints
    ]
    return Starlette(routes=routes, exception_handlers={HTTPException: _no_such_endpoint})


def _observed(endpoint: Endpoint[Any], service: str, limit_bytes: int, allow_nan: bool) -> Callable[[Request], Awaitable[Response]]:
    async def serve(request: Request) -> Response:
        watch = metrics.Stopwatch()
        request_id = ""
        try:
            caller = HttpCaller(request.headers)
            request_id = begin_request(caller.as_context())
            structlog.contextvars.bind_contextvars(request_id=request_id)
            # From an empty context: a request on a connection that is kept must not become a child of the one before.
            parent = propagate.extract(request.headers, context=Context())
            with tracer.start_as_current_span(f"http {endpoint.name}", context=parent, kind=trace.SpanKind.SERVER):
                reply, code = _encoded(await _answer(endpoint, request, caller, limit_bytes), allow_nan), grpc.StatusCode.OK
        except CallError as error:
            code = error.code
            log.info("request refused", method=endpoint.name, code=code.name, reason=error.message)
            reply = Reply(problem_body(error, request_id), http_status(error), headers=problem_headers(error))
        except CallerGoneError:
            code, reply = grpc.StatusCode.CANCELLED, Reply(b"", 499)
        except asyncio.CancelledError:
            _count(service, endpoint.name, grpc.StatusCode.CANCELLED, watch)
            raise
        except Exception as error:  # the last wall: a bug answers 500 and is logged, the server lives
            code = grpc.StatusCode.INTERNAL
            log.exception("request failed", method=endpoint.name)
            failure = CallError(code, f"{type(error).__name__}; see the log of request {request_id}")
            reply = Reply(problem_body(failure, request_id), 500)
        _count(service, endpoint.name, code, watch)
        return _response(reply, request_id)

    return serve


async def _answer(endpoint: Endpoint[Any], request: Request, caller: HttpCaller, limit_bytes: int) -> Reply:
    priority(caller.as_context())  # an unknown class is refused before anything is read
    if endpoint.body is None:
        return await endpoint.answer(Received(Nothing(), caller, request.path_params))
    body = await read_json(request, endpoint.body, limit_bytes)
    limit_s = endpoint.timeout_s(body)
    caller.expire_after(limit_s)
    try:
        async with asyncio.timeout(limit_s):
            return await while_called(request, _run(endpoint, Received(body, caller, request.path_params)))
    except TimeoutError as error:
        if limit_s is None:
            raise
        raise CallError(grpc.StatusCode.DEADLINE_EXCEEDED, f"there is no answer after {limit_s} s") from error


async def _run(endpoint: Endpoint[Any], received: Received[Any]) -> Reply:
    return await endpoint.answer(received)


def _encoded(reply: Reply, allow_nan: bool = False) -> Reply:
    if isinstance(reply.content, (bytes, str)):
        return reply
    # NaN is no JSON: a reply that holds one unasked is a bug, and must not reach a caller who may read it as anything.
    return replace(reply, content=json.dumps(reply.content, allow_nan=allow_nan, ensure_ascii=False, separators=(",", ":")))


def _response(reply: Reply, request_id: str) -> Response:
    headers = {**reply.headers, **({"x-request-id": request_id} if request_id else {})}
    return Response(_encoded(reply).content, reply.status, headers, reply.media_type)


def _count(service: str, name: str, code: grpc.StatusCode, watch: metrics.Stopwatch) -> None:
    metrics.REQUESTS.labels(service, name, code.name).inc()
    metrics.REQUEST_SECONDS.labels(service, name).observe(watch.seconds)
    log.debug("request", method=name, code=code.name, seconds=round(watch.seconds, 4))


async def _no_such_endpoint(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    refusal: CallError = HttpError(error.status_code, f"{request.method} {request.url.path}: {error.detail}")
    if error.status_code == 404:
        refusal = CallError(grpc.StatusCode.NOT_FOUND, f"there is nothing at {request.url.path}")
    return _response(Reply(problem_body(refusal, ""), error.status_code, headers=error.headers or {}), "")
