"""Bodies of requests: of bounded size, JSON, checked against a model, and every mistake named with its path."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import grpc
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import ClientDisconnect, Request

from rewardmesh.serving.errors import CallError

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)

_MOST_PROBLEMS = 20


class JsonModel(BaseModel):
    """What a body may hold: no field that is not declared, no number that is none, no conversion of types."""

    model_config = ConfigDict(
        extra="forbid", allow_inf_nan=False, strict=True, frozen=True, json_schema_serialization_defaults_required=True
    )


class HttpError(CallError):
    """A refusal that gRPC has no code of its own for: `status` is the HTTP status."""

    def __init__(self, status: int, message: str, fields: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(grpc.StatusCode.INVALID_ARGUMENT, message, violations=fields)
        self.status = status


class CallerGoneError(Exception):
    """Nobody waits for the answer any more."""


async def read_json(request: Request, model: type[M], limit_bytes: int) -> M:
    """Read and check a request's body.

    Raises:
        HttpError: 415 another content type, 413 too large, 400 no JSON, 422 another shape than the model's.
        CallerGoneError: the caller went while it sent.
    """
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        # A browser sends other types to foreign sites without asking first.
        raise HttpError(415, f"content type {kind!r} is not read here; send application/json")
    data = await _read(request, limit_bytes)
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False, include_input=False)
        if problems[0]["type"] == "json_invalid":
            raise HttpError(400, f"the body is no JSON: {problems[0]['msg'].removeprefix('Invalid JSON: ')}") from error
        fields = tuple((_path(problem["loc"]), _message(problem)) for problem in problems[:_MOST_PROBLEMS])
        more = f"; and {len(problems) - len(fields)} more" if len(problems) > len(fields) else ""
        raise HttpError(422, "; ".join(f"{path}: {what}" for path, what in fields) + more, fields) from error


async def while_called(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Run the work as long as the caller waits for it; when it goes, the work is cancelled. Call after the body has been read.

    Raises:
        CallerGoneError: the caller went.
    """
    running = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((running, gone), return_when=asyncio.FIRST_COMPLETED)
        if not running.done():
            raise CallerGoneError
        return running.result()
    finally:
        for task in (running, gone):
            task.cancel()
        await asyncio.gather(running, gone, return_exceptions=True)


async def _read(request: Request, limit_bytes: int) -> bytes:
    too_large = HttpError(413, f"the body is larger than {limit_bytes} bytes; send less at once")
    stated = request.headers.get("content-length", "")
    if stated.isdecimal() and int(stated) > limit_bytes:
        raise too_large
    data = bytearray()
    try:
        async for chunk in request.stream():
            data += chunk
            if len(data) > limit_bytes:
                raise too_large
    except ClientDisconnect as error:
        raise CallerGoneError from error
    return bytes(data)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _path(location: tuple[int | str, ...]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".") or "body"


def _message(problem: Any) -> str:
    if problem["type"] == "extra_forbidden":
        return "unknown field"
    return str(problem["msg"]).removeprefix("Value error, ")
