"""Whole-call problems: one exception that becomes a gRPC status with rich details.

Problems of single items are absences (see `validation.absence`), never statuses.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

from rewardmesh.v1 import common_pb2 as pb


class ItemsLostError(Exception):
    """Some items of a batch have no result, each for a reason that is known; the others keep theirs.

    Attributes:
        results: for each item of the batch, in order, what the engine returns for it, or the absence that stands for it.
    """

    def __init__(self, results: Sequence[Any]) -> None:
        self.results = list(results)
        self.absences = [result for result in self.results if isinstance(result, pb.Absence)]
        super().__init__(f"{len(self.absences)} of {len(self.results)} items lost: {self.absences[0].detail if self.absences else ''}")


class CallError(Exception):
    """Ends the whole call with a status.

    Attributes:
        code: gRPC status code.
        message: what is wrong and what would help.
        violations: (field path, description) for INVALID_ARGUMENT.
        retry_after_s: earliest time after which a retry makes sense, seconds; None when unknown.
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        *,
        violations: Sequence[tuple[str, str]] = (),
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.violations = tuple(violations)
        self.retry_after_s = retry_after_s

    def to_status(self) -> status_pb2.Status:
        """The rich form: BadRequest for violations, RetryInfo for retry_after_s."""
        details: list[any_pb2.Any] = []
        if self.violations:
            detail = any_pb2.Any()
            fields = [error_details_pb2.BadRequest.FieldViolation(field=f, description=d) for f, d in self.violations]
            detail.Pack(error_details_pb2.BadRequest(field_violations=fields))
            details.append(detail)
        if self.retry_after_s is not None:
            detail = any_pb2.Any()
            detail.Pack(error_details_pb2.RetryInfo(retry_delay=to_duration(self.retry_after_s)))
            details.append(detail)
        return status_pb2.Status(code=code_pb2.Code.Value(self.code.name), message=self.message, details=details)


def invalid_argument(field: str, description: str) -> CallError:
    """The request is wrong; names the field and the remedy."""
    return CallError(grpc.StatusCode.INVALID_ARGUMENT, f"{field}: {description}", violations=[(field, description)])


def not_found(kind: str, name: str, known: Iterable[str]) -> CallError:
    """There is no such model, verifier, program, ...; lists the known ones."""
    return CallError(grpc.StatusCode.NOT_FOUND, f"no {kind} named {name!r}; known: {', '.join(sorted(known)) or 'none'}")


def unimplemented(what: str) -> CallError:
    """The contract has it, this server does not do it yet."""
    return CallError(grpc.StatusCode.UNIMPLEMENTED, f"{what} is not implemented by this service yet")


def failed_precondition(message: str) -> CallError:
    """The state of the server does not allow it."""
    return CallError(grpc.StatusCode.FAILED_PRECONDITION, message)


def overloaded(message: str, retry_after_s: float) -> CallError:
    """Refused early because the queue is full; the client may come again after retry_after_s."""
    return CallError(grpc.StatusCode.RESOURCE_EXHAUSTED, message, retry_after_s=retry_after_s)


def to_duration(seconds: float) -> duration_pb2.Duration:
    """A protobuf Duration of at least zero seconds."""
    whole = math.floor(max(seconds, 0.0))
    return duration_pb2.Duration(seconds=whole, nanos=int((max(seconds, 0.0) - whole) * 1e9))
