"""What the blocking and the asyncio client share: their settings, call metadata and deadlines."""

import time
import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from google.protobuf.wrappers_pb2 import Int32Value, StringValue

from rewardmesh.client.channel import ChannelOptions
from rewardmesh.client.messages import Model, model_ref
from rewardmesh.v1.common_pb2 import ModelRef
from rewardmesh.v1.mesh_service_pb2 import EvaluateOptions

Priority = Literal["", "TRAINING", "INTERACTIVE", "BATCH"]
RankingMethod = Literal["ALL_PAIRS", "SPARSE", "LISTWISE"]
RankingAggregation = Literal["MEAN_WINS", "BORDA", "BRADLEY_TERRY", "ELO"]
Normalisation = Literal["SUM", "MEAN"]
Metadata = Mapping[str, str] | None
HealthStatus = Literal["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"]

HEALTH_METHOD = "/grpc.health.v1.Health/Check"
# The health protocol's messages have one field each: these well-known types are the same on the wire, and its own stubs no base dependency.
HealthRequest = StringValue
HealthReply = Int32Value
_HEALTH: tuple[HealthStatus, ...] = ("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")


class ClientBase:
    """Settings of a client.

    target: "host:port", "host:port,host:port" or any gRPC name ("dns:///scorer:50051"): a name's addresses are its replicas.
    timeout_s: seconds a call may take, retries and all chunks included; None for no limit. Streams have a limit only when a call gives one.
    tenant, priority: sent with every call; "" for none.
    chunk_items, concurrency: a call of many items is cut into chunks of so many, so many of them in flight.
    """

    def __init__(
        self,
        target: str,
        *,
        timeout_s: float | None = 60.0,
        tenant: str = "",
        priority: Priority = "",
        chunk_items: int = 256,
        concurrency: int = 4,
        channel_options: ChannelOptions | None = None,
    ) -> None:
        if chunk_items < 1 or concurrency < 1:
            raise ValueError("chunk_items and concurrency are at least 1")
        self.target = target
        self.timeout_s = timeout_s
        self._tenant = tenant
        self._priority = priority
        self._chunk_items = chunk_items
        self._concurrency = concurrency
        self._channel_options = channel_options or ChannelOptions()

    def metadata(self, extra: Mapping[str, str] | None = None) -> tuple[tuple[str, str], ...]:
        """The metadata of a call, for use with raw stubs: `x-request-id` (new unless in extra), `x-tenant`, `x-priority`, and extra."""
        found = {"x-request-id": uuid.uuid4().hex}
        if self._tenant:
            found["x-tenant"] = self._tenant
        if self._priority:
            found["x-priority"] = self._priority
        return tuple((found | {key.lower(): value for key, value in (extra or {}).items()}).items())

    def _deadline(self, timeout_s: float | None) -> float | None:
        limit_s = self.timeout_s if timeout_s is None else timeout_s
        return None if limit_s is None else time.monotonic() + limit_s


def remaining_s(deadline: float | None) -> float | None:
    """Seconds until a deadline on the monotonic clock, at least 0; None for no deadline."""
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def health_options(options: ChannelOptions) -> ChannelOptions:
    return replace(options, health_check=False)


def health_status(reply: Int32Value) -> HealthStatus:
    return _HEALTH[reply.value] if 0 <= reply.value < len(_HEALTH) else "UNKNOWN"


def evaluate_options(program: str, program_fingerprint: str, pins: Mapping[str, Model] | None) -> EvaluateOptions:
    """pins: signal -> model that must answer for it."""
    references = {signal: model_ref(model) or ModelRef() for signal, model in (pins or {}).items()}
    return EvaluateOptions(program=program, program_fingerprint=program_fingerprint, pins=references)
