"""What a failed call means: an absence of its items when it was bad luck, `CallFailed` when it was a mistake."""

from dataclasses import dataclass
from typing import Protocol, cast

import grpc

from rewardmesh.client.results import Absence, AbsenceReason

_DETAILS_KEY = "grpc-status-details-bin"
# gRPC core reports messages over the limit with the status of an overloaded server, but no retry makes them smaller.
_TOO_LARGE = ("message larger than max", "message is larger than max")


@dataclass(frozen=True)
class Violation:
    """One wrong field of a request."""

    field: str
    description: str


class CallFailed(Exception):
    """A whole call failed. `code`, `details`, `violations` and `retry_after_s` say why; `transient` whether trying again may help.

    Violations and the wait come from the rich status, which is read when googleapis-common-protos is installed.
    """

    def __init__(
        self, code: grpc.StatusCode, details: str, *, violations: tuple[Violation, ...] = (), retry_after_s: float | None = None
    ) -> None:
        fields = "; ".join(f"{violation.field}: {violation.description}" for violation in violations)
        super().__init__(f"{code.name}: {details}" + (f" ({fields})" if fields and fields not in details else ""))
        self.code = code
        self.details = details
        self.violations = violations
        self.retry_after_s = retry_after_s

    @property
    def transient(self) -> bool:
        """Whether the same call may succeed later. CANCELLED counts: a server that is stopped cancels the calls it holds."""
        if any(words in self.details.lower() for words in _TOO_LARGE):
            return False
        return self.code in (
            grpc.StatusCode.UNAVAILABLE,
            grpc.StatusCode.DEADLINE_EXCEEDED,
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            grpc.StatusCode.CANCELLED,
        )


class _RpcFailure(Protocol):
    """What the errors of grpc and grpc.aio have in common."""

    def code(self) -> grpc.StatusCode: ...
    def details(self) -> str | None: ...
    def trailing_metadata(self) -> "tuple[tuple[str, str | bytes], ...] | None": ...


def call_failed(error: grpc.RpcError) -> CallFailed:
    """Read a failed call's code, details and rich status."""
    failure = cast(_RpcFailure, error)
    violations: tuple[Violation, ...] = ()
    retry_after_s: float | None = None
    for key, value in failure.trailing_metadata() or ():
        if key == _DETAILS_KEY and isinstance(value, bytes):
            violations, retry_after_s = _rich_details(value)
    return CallFailed(failure.code(), failure.details() or "", violations=violations, retry_after_s=retry_after_s)


def absence_of(failure: CallFailed) -> Absence:
    """What a failure makes of the items of its call; a failure that is not transient is raised, as it is the caller's to mend."""
    if not failure.transient:
        raise failure
    reason = {
        grpc.StatusCode.DEADLINE_EXCEEDED: AbsenceReason.DEADLINE,
        grpc.StatusCode.RESOURCE_EXHAUSTED: AbsenceReason.OVERLOADED,
    }.get(failure.code, AbsenceReason.INFRASTRUCTURE)
    return Absence(reason, f"{failure.code.name}: {failure.details}", retryable=True, retry_after_s=failure.retry_after_s)


def _rich_details(serialized: bytes) -> tuple[tuple[Violation, ...], float | None]:
    try:
        from google.protobuf.message import DecodeError
        from google.rpc import error_details_pb2, status_pb2
    except ImportError:  # not a base dependency: code and details say enough
        return (), None
    violations: list[Violation] = []
    retry_after_s: float | None = None
    try:
        for detail in status_pb2.Status.FromString(serialized).details:
            bad_request, retry = error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
            if detail.Unpack(bad_request):
                violations += [Violation(each.field, each.description) for each in bad_request.field_violations]
            elif detail.Unpack(retry):
                retry_after_s = retry.retry_delay.ToNanoseconds() / 1e9
    except DecodeError:  # a proxy's own idea of details: the status itself still stands
        return (), None
    return tuple(violations), retry_after_s
