"""Who calls over HTTP, as the services know callers: metadata and a deadline."""

from __future__ import annotations

import time
from typing import cast

from starlette.datastructures import Headers

from rewardmesh.serving.context import PROPAGATED_KEYS, CallContext
from rewardmesh.serving.errors import invalid_argument

_LONGEST_HEADER = 256


class HttpCaller:
    """The part of a gRPC `ServicerContext` that our services read, made of a request's headers and its own time limit.

    Raises:
        CallError: INVALID_ARGUMENT when a header that travels on as gRPC metadata could not (it must be printable ASCII).
    """

    def __init__(self, headers: Headers) -> None:
        self._metadata = tuple((key, _checked(key, headers[key])) for key in PROPAGATED_KEYS if key in headers)
        self._deadline: float | None = None

    def expire_after(self, seconds: float | None) -> None:
        """Set the deadline; None for none."""
        self._deadline = None if seconds is None else time.monotonic() + seconds

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        """`x-request-id`, `x-tenant`, `x-priority`, those that were sent."""
        return self._metadata

    def time_remaining(self) -> float | None:
        """Seconds until the deadline, at least 0; None without one."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def as_context(self) -> CallContext:
        """Itself, where a servicer's method wants gRPC's class and reads no more of it than what is here."""
        return cast(CallContext, self)


def _checked(key: str, value: str) -> str:
    if not value or not value.isascii() or not value.isprintable() or len(value) > _LONGEST_HEADER:
        raise invalid_argument(f"header {key}", f"must be 1 to {_LONGEST_HEADER} printable ASCII characters")
    return value
