"""What a call brings along: its deadline, request id, priority, tenant."""

from __future__ import annotations

import uuid
from contextvars import ContextVar
from enum import IntEnum
from typing import Any

import grpc

from rewardmesh.serving.errors import invalid_argument

REQUEST_ID_KEY = "x-request-id"
TENANT_KEY = "x-tenant"
PROPAGATED_KEYS = (REQUEST_ID_KEY, TENANT_KEY, "x-priority")
LONGEST_TENANT = 128

_request_id: ContextVar[str] = ContextVar("request_id", default="")

CallContext = grpc.aio.ServicerContext[Any, Any]


class Priority(IntEnum):
    """Class of a call; a smaller number is served first."""

    INTERACTIVE = 0
    TRAINING = 1
    BATCH = 2


def metadata_value(context: CallContext, key: str) -> str | None:
    """The first value of a metadata key of the call, or None."""
    for name, value in context.invocation_metadata() or ():
        if name == key:
            return value if isinstance(value, str) else value.decode("utf-8", "replace")
    return None


def remaining_s(context: CallContext) -> float | None:
    """Seconds until the caller's deadline; None when it set none."""
    remaining = context.time_remaining()
    # grpc reports "no deadline" as a time in the far future on some paths.
    return None if remaining is None or remaining > 1e8 else remaining


def priority(context: CallContext) -> Priority:
    """The call's priority class (`x-priority`), TRAINING by default; unknown names are INVALID_ARGUMENT."""
    name = metadata_value(context, "x-priority")
    if name is None:
        return Priority.TRAINING
    try:
        return Priority[name.upper()]
    except KeyError:
        raise invalid_argument("metadata x-priority", f"{name!r} is unknown; one of {', '.join(p.name for p in Priority)}") from None


def tenant(context: CallContext) -> str:
    """Whom the call is charged to (`x-tenant`), "" when it does not say; the first 128 characters count."""
    return (metadata_value(context, TENANT_KEY) or "")[:LONGEST_TENANT]


def propagated_metadata(context: CallContext) -> tuple[tuple[str, str], ...]:
    """Metadata that a server passes on to the services it calls."""
    values = {key: metadata_value(context, key) for key in PROPAGATED_KEYS}
    values[REQUEST_ID_KEY] = request_id(context)
    return tuple((key, value) for key, value in values.items() if value is not None)


def request_id(context: CallContext) -> str:
    """The call's id: the caller's `x-request-id`, or the one made on arrival."""
    return _request_id.get() or metadata_value(context, REQUEST_ID_KEY) or begin_request(context)


def begin_request(context: CallContext) -> str:
    """Fix the id of the call that the current task serves; returns it."""
    identifier = metadata_value(context, REQUEST_ID_KEY) or uuid.uuid4().hex
    _request_id.set(identifier)
    return identifier
