"""The health check that lets an ejected replica back in: any answer but silence will do, as health itself is minded by gRPC's own watch."""

import grpc
from google.protobuf.wrappers_pb2 import StringValue

PROBE_METHOD = "/grpc.health.v1.Health/Check"
PROBE_TIMEOUT_S = 1.0


def probe_request(health_service: str) -> bytes:
    """The request on the wire: its message has one string field, as this well-known type has."""
    return StringValue(value=health_service).SerializeToString()


def is_alive(code: grpc.StatusCode | None) -> bool:
    """Whether a probe that ended so was answered by the replica. One that is NOT_SERVING is UNAVAILABLE on a channel with health checks."""
    return code not in (None, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
