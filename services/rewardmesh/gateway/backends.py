"""The services behind the signals: which address answers which signal, and what a failed call means.

A backend that is down makes absences, never an unhealthy gateway: absence policies are there for that. Each change of a backend's
state is logged once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import grpc

from rewardmesh.client import ChannelOptions, open_aio_channel
from rewardmesh.client.errors import CallFailed, call_failed
from rewardmesh.gateway.program import Program, Signal
from rewardmesh.serving.config import ConfigError
from rewardmesh.serving.logs import get_logger
from rewardmesh.serving.validation import absence
from rewardmesh.v1 import common_pb2 as pb

log = get_logger(__name__)

_REASONS = {
    grpc.StatusCode.DEADLINE_EXCEEDED: pb.ABSENCE_REASON_DEADLINE,
    grpc.StatusCode.RESOURCE_EXHAUSTED: pb.ABSENCE_REASON_OVERLOADED,
    grpc.StatusCode.UNAVAILABLE: pb.ABSENCE_REASON_INFRASTRUCTURE,
    grpc.StatusCode.CANCELLED: pb.ABSENCE_REASON_INFRASTRUCTURE,
    grpc.StatusCode.ABORTED: pb.ABSENCE_REASON_INFRASTRUCTURE,
    grpc.StatusCode.INTERNAL: pb.ABSENCE_REASON_INFRASTRUCTURE,
    grpc.StatusCode.UNKNOWN: pb.ABSENCE_REASON_INFRASTRUCTURE,
    grpc.StatusCode.DATA_LOSS: pb.ABSENCE_REASON_INFRASTRUCTURE,
}
_FORBIDDEN = (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED)
_NOT_THERE = (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION)


@dataclass
class Backend:
    """One address and its channel."""

    name: str
    target: str
    channel: grpc.aio.Channel
    up: bool = True

    def succeeded(self) -> None:
        """Note an answer."""
        if not self.up:
            self.up = True
            log.info("backend answers again", backend=self.name, target=self.target)

    def failed(self, error: grpc.aio.AioRpcError, *, pinned: bool) -> pb.Absence:
        """What a failed call makes of its items: retryable for bad luck, INVALID_INPUT for a mistake that a retry would repeat.

        pinned: a pinned version that is not there (yet) may come.
        """
        failure = call_failed(error)
        detail = f"backend {self.name!r} ({self.target}): {failure.code.name}: {failure.details}"
        if failure.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED) and self.up:
            self.up = False
            log.warning("backend does not answer", backend=self.name, target=self.target, detail=failure.details)
        if failure.code in _FORBIDDEN:
            return absence(pb.ABSENCE_REASON_INFRASTRUCTURE, detail)
        if pinned and failure.code in _NOT_THERE:
            return absence(pb.ABSENCE_REASON_INFRASTRUCTURE, detail, retryable=True)
        if failure.code not in _REASONS or _too_large(failure):
            return absence(pb.ABSENCE_REASON_INVALID_INPUT, detail)
        return absence(_REASONS[failure.code], detail, retryable=True, retry_after_s=failure.retry_after_s)


class Backends:
    """Opens one channel for each configured backend; make it inside the running event loop."""

    def __init__(self, addresses: Mapping[str, str], max_message_bytes: int) -> None:
        self._addresses = dict(addresses)
        self._options = ChannelOptions(max_message_bytes=max_message_bytes)
        self._opened: dict[str, Backend] = {}

    def resolve(self, program: Program, name: str, signal: Signal) -> Backend:
        """The backend of a signal: the one it names as `service`, else that of `kind/target`, else that of its kind.

        Raises:
            ConfigError: no address is configured for it.
        """
        keys = [signal.service] if signal.service else [f"{signal.kind}/{signal.target}", signal.kind]
        for key in keys:
            if key in self._addresses:
                return self._open(key)
        known = ", ".join(sorted(self._addresses)) or "none"
        raise ConfigError(f"program {program.name!r}, signal {name!r}: no backend {' or '.join(map(repr, keys))} (configured: {known})")

    def _open(self, key: str) -> Backend:
        if key not in self._opened:
            target = self._addresses[key]
            self._opened[key] = Backend(key, target, open_aio_channel(target, self._options))
        return self._opened[key]

    async def close(self) -> None:
        """Close all channels."""
        for backend in self._opened.values():
            await backend.channel.close()


def _too_large(failure: CallFailed) -> bool:
    return failure.code is grpc.StatusCode.RESOURCE_EXHAUSTED and not failure.transient
