"""Whole-call problems as HTTP answers. The mapping is that of google.rpc.Code; refusals that ask to come again say when (Retry-After)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import grpc

from rewardmesh.serving.errors import CallError
from rewardmesh.serving.http.body import HttpError

_STATUSES = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}
_COME_AGAIN = (429, 503)
_RETRY_AFTER_S = 1.0
"""Said to callers that should come again and were not told when."""


def http_status(error: CallError) -> int:
    """The HTTP status of a problem; 500 for codes that tell of a fault in the server."""
    return error.status if isinstance(error, HttpError) else _STATUSES.get(error.code, 500)


def problem_body(error: CallError, request_id: str) -> dict[str, Any]:
    """`{"error": {"code", "message", "fields", "retry_after_seconds", "request_id"}}`."""
    fields = [{"field": field, "problem": problem} for field, problem in error.violations]
    about = {
        "code": error.code.name,
        "message": error.message,
        "fields": fields,
        "request_id": request_id,
        "retry_after_seconds": _wait_s(error),
    }
    return {"error": about}


def problem_headers(error: CallError) -> Mapping[str, str]:
    """`Retry-After` in whole seconds, rounded up, where it makes sense to come again."""
    wait_s = _wait_s(error)
    return {} if wait_s is None else {"retry-after": str(max(1, math.ceil(wait_s)))}


def _wait_s(error: CallError) -> float | None:
    if http_status(error) not in _COME_AGAIN:
        return error.retry_after_s
    return _RETRY_AFTER_S if error.retry_after_s is None else error.retry_after_s
