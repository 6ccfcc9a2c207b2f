"""The members of a panel: one client each, and what a call to a member can come to.

A member that cannot be reached, is late or refuses makes absences of its items; only what is wrong with the caller's own request
(INVALID_ARGUMENT) ends the whole call. An answer that does not keep the contract is no verdict either.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from opentelemetry import propagate

from rewardmesh.client import AsyncClient, CallFailed, ChannelOptions, open_aio_channel
from rewardmesh.client.errors import absence_of, call_failed
from rewardmesh.panel.metrics import MEMBER_ITEMS
from rewardmesh.panel.spec import MemberSpec
from rewardmesh.serving.errors import CallError
from rewardmesh.serving.metrics import outcome_label
from rewardmesh.serving.validation import absence
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import judge_service_pb2 as api
from rewardmesh.v1 import model_service_pb2

_HEALTH_TIMEOUT_S = 1.0


@dataclass(frozen=True)
class Found:
    """What a member says of one item, and where it came from."""

    verdict: Any
    provenance: pb.Provenance


class Member:
    """One judge; made inside the event loop that will use it."""

    def __init__(self, panel: str, name: str, spec: MemberSpec, max_message_bytes: int) -> None:
        self.name = name
        self.spec = spec
        self._panel = panel
        self._client = AsyncClient(spec.address, channel_options=ChannelOptions(max_message_bytes=max_message_bytes))
        # On a channel of its own, which lets calls through to a server that is not serving.
        self._health_channel = open_aio_channel(spec.address, ChannelOptions(health_check=False, hedging=False, max_attempts=2))
        self._health = health_pb2_grpc.HealthStub(self._health_channel)

    async def close(self) -> None:
        """Close the connections."""
        await asyncio.gather(self._client.close(), self._health_channel.close())

    async def is_up(self) -> bool:
        """Whether it can be reached and is SERVING."""
        try:
            reply = await self._health.Check(health_pb2.HealthCheckRequest(service=""), timeout=_HEALTH_TIMEOUT_S)
        except grpc.aio.AioRpcError:
            return False
        return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)

    async def ask(
        self, method: str, request: Any, ids: Sequence[str], timeout_s: float, metadata: tuple[tuple[str, str], ...]
    ) -> list[Found]:
        """Send one request; one result an id, in order.

        Raises:
            CallError: the request itself is wrong.
        """
        if self.spec.timeout is not None:
            timeout_s = min(timeout_s, self.spec.timeout)
        carrier: dict[str, str] = {}
        propagate.inject(carrier)
        deadline = asyncio.get_running_loop().time() + timeout_s
        sent = (*metadata, *carrier.items())
        found = await self._within(timeout_s, lambda: self._named(request, timeout_s, sent))
        if not isinstance(found, pb.Absence):
            left_s = max(deadline - asyncio.get_running_loop().time(), 0.0)
            stub = getattr(self._client.judge, method)
            found = await self._within(left_s, lambda: stub(request, timeout=left_s, metadata=sent))
        results = [Found(found, pb.Provenance())] * len(ids) if isinstance(found, pb.Absence) else _read(self.name, found, ids)
        for result in results:
            lost = result.verdict if isinstance(result.verdict, pb.Absence) else None
            MEMBER_ITEMS.labels(self._panel, self.name, method, outcome_label(lost)).inc()
        return results

    async def _named(self, request: Any, timeout_s: float, metadata: tuple[tuple[str, str], ...]) -> pb.Absence | None:
        """Put the model into the request; a version counted back from the active one is looked up."""
        spec = self.spec
        if not spec.model and not spec.version:
            return None
        version = spec.version
        if version < 0:
            reply = await self._client.model.GetModel(
                model_service_pb2.GetModelRequest(name=spec.model), timeout=timeout_s, metadata=metadata
            )
            older = sorted(each.version for each in reply.versions if each.version < reply.active.version)
            if len(older) < -version:
                return absence(
                    pb.ABSENCE_REASON_NOT_APPLICABLE,
                    f"version {version} was asked for, and {len(older)} are loaded before the active {reply.active.version}",
                    retryable=True,
                )
            version = older[version]
        request.model.CopyFrom(pb.ModelRef(name=spec.model, version=version))
        return None

    async def _within(self, timeout_s: float, call: Callable[[], Awaitable[Any]]) -> Any:
        if timeout_s <= 0:
            return absence(pb.ABSENCE_REASON_DEADLINE, "no time was left to ask it", retryable=True)
        try:
            return await call()
        except grpc.aio.AioRpcError as error:
            failure = call_failed(error)
        return _absence_of(self.name, failure)


def _absence_of(member: str, failure: CallFailed) -> pb.Absence:
    """What a failed call makes of its items. A whole request that is wrong is the caller's to mend; a member's setting is nobody's item."""
    if failure.transient:
        return absence_of(failure).to_proto()
    if failure.code is grpc.StatusCode.INVALID_ARGUMENT:
        fields = [(violation.field, violation.description) for violation in failure.violations]
        raise CallError(failure.code, f"member {member!r}: {failure.details}", violations=fields) from failure
    return absence(pb.ABSENCE_REASON_INFRASTRUCTURE, f"{failure.code.name}: {failure.details}")


def _read(member: str, reply: Any, ids: Sequence[str]) -> list[Found]:
    if [_id(outcome) for outcome in reply.outcomes] != list(ids):
        lost = absence(
            pb.ABSENCE_REASON_INFRASTRUCTURE, f"answered {len(reply.outcomes)} items for {len(ids)}, or others, or in another order"
        )
        return [Found(lost, pb.Provenance())] * len(ids)
    return [Found(_verdict(outcome), outcome.provenance) for outcome in reply.outcomes]


def _id(outcome: Any) -> str:
    if isinstance(outcome, api.PreferenceOutcome):
        return outcome.pair_id
    return outcome.group_id if isinstance(outcome, api.RankingOutcome) else str(outcome.sample_id)


def _verdict(outcome: Any) -> Any:
    kind = outcome.WhichOneof("result")
    if kind is None:
        return absence(pb.ABSENCE_REASON_INFRASTRUCTURE, "answered neither verdict nor absence")
    verdict = getattr(outcome, kind)
    problem = _problem(verdict)
    return absence(pb.ABSENCE_REASON_NON_FINITE, problem) if problem else verdict


def _problem(verdict: Any) -> str | None:
    """Numbers that no vote can be made of."""
    match verdict:
        case api.Preference():
            numbers = [
                verdict.p_a,
                verdict.p_a_as_given,
                verdict.p_tie,
                *([verdict.p_a_swapped] if verdict.HasField("p_a_swapped") else []),
            ]
            return next((f"answered the probability {p}" for p in numbers if not -1e-5 <= p <= 1 + 1e-5), None)
        case api.Grades():
            return None if -1e-5 <= verdict.total <= 1 + 1e-5 else f"answered the total {verdict.total}"
        case api.Ranking():
            size = len(verdict.scores)
            if sorted(verdict.order) != list(range(size)) or not all(map(math.isfinite, verdict.scores)):
                return f"answered the order {list(verdict.order)} with the scores {list(verdict.scores)}"
            matrix = verdict.pair_matrix
            whole = matrix.size in (0, size) and matrix.probabilities.length == matrix.size**2
            return None if whole else f"answered a matrix of {matrix.size} for {size} answers"
    return None
