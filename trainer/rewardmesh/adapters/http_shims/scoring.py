"""Scores for a shim: from a reward service or from a program of a gateway, with every absence settled one way."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import grpc
from opentelemetry import propagate

from rewardmesh.adapters.http_shims.config import ShimConfig
from rewardmesh.client import Absence, AsyncClient, CallFailed, Evaluation, Score
from rewardmesh.serving.context import request_id
from rewardmesh.serving.errors import CallError
from rewardmesh.serving.http import HttpCaller, HttpError
from rewardmesh.v1 import common_pb2 as pb

_MOST_REASONS = 20


@dataclass(frozen=True)
class Scored:
    """One score.

    Attributes:
        value: NaN when it is absent.
        parts: the head's outputs or the program's components, by name, as far as they are there.
        logit: whether the value is a raw output, to which an activation applies.
        tokens: read for it.
        model: that answered; "" for a program.
    """

    value: float
    absence: Absence | None
    parts: Mapping[str, float]
    logit: bool
    tokens: int
    model: str


@dataclass
class Counts:
    """What a shim has done so far."""

    calls: int = 0
    scores: int = 0
    absent: int = 0
    refused: int = 0
    reasons: dict[str, int] = field(default_factory=dict)


class Scorer:
    """Asks the service behind a shim. Make it inside the running event loop."""

    def __init__(self, config: ShimConfig) -> None:
        self._config = config
        self._client = AsyncClient(config.target, timeout_s=config.timeout_seconds)
        self.counts = Counts()

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def serving(self) -> bool:
        """Whether the service behind takes calls."""
        try:
            return await self._client.health(timeout_s=2.0) == "SERVING"
        except CallFailed:
            return False

    async def score(self, samples: Sequence[pb.Sample], caller: HttpCaller, field: str, model: str = "") -> list[Scored]:
        """Score samples, in order.

        Args:
            field: name of the list in the request's body that the samples come from, for messages.
            model: that must answer; "" for the configured one.

        Raises:
            CallError: the service refused the call; or a score is absent (UNAVAILABLE if asking again may help, else status 422), unless
                the shim answers NaN for it.
        """
        self.counts.calls += 1
        try:
            scored = await self._ask(samples, caller, model)
        except CallFailed as failure:
            self.counts.refused += 1
            raise _refusal(failure) from failure
        lost = [(index, each.absence) for index, each in enumerate(scored) if each.absence is not None]
        self.counts.scores += len(scored) - len(lost)
        self.counts.absent += len(lost)
        for _, absence in lost:
            self.counts.reasons[absence.reason] = self.counts.reasons.get(absence.reason, 0) + 1
        if lost and self._config.on_absence == "fail":
            self.counts.refused += 1
            raise _absent(lost, len(scored), field)
        return scored

    async def _ask(self, samples: Sequence[pb.Sample], caller: HttpCaller, model: str) -> list[Scored]:
        carrier: dict[str, str] = {}
        propagate.inject(carrier)
        metadata = {**carrier, **dict(caller.invocation_metadata()), "x-request-id": request_id(caller.as_context())}
        name = model or self._config.name
        if self._config.behind == "reward":
            return [_of_score(score) for score in await self._client.score(samples, model=name or None, metadata=metadata)]
        evaluations = (await self._client.evaluate(samples, program=name, metadata=metadata)).evaluations
        return [_of_evaluation(evaluation) for evaluation in evaluations]


def _of_score(score: Score) -> Scored:
    provenance = score.provenance
    value = math.nan if score.value is None else score.value
    logit = score.message.reward.scale.kind == pb.SCALE_KIND_LOGIT
    return Scored(value, score.absence, score.objectives, logit, provenance.tokens_read, provenance.model.name)


def _of_evaluation(evaluation: Evaluation) -> Scored:
    value = math.nan if evaluation.value is None else evaluation.value
    parts = {name: component.value for name, component in evaluation.components.items() if component.value is not None}
    return Scored(value, evaluation.absence, parts, False, 0, "")


def _absent(lost: Sequence[tuple[int, Absence]], total: int, field: str) -> CallError:
    reasons = tuple((f"{field}[{index}]", f"{absence.reason}: {absence.detail}") for index, absence in lost[:_MOST_REASONS])
    message = f"{len(lost)} of {total} scores are absent, and this protocol has no word for it; the first: {reasons[0][0]}: {reasons[0][1]}"
    if not any(absence.retryable for _, absence in lost):
        return HttpError(422, message, reasons)
    waits = [absence.retry_after_s for _, absence in lost if absence.retry_after_s is not None]
    return CallError(grpc.StatusCode.UNAVAILABLE, message, violations=reasons, retry_after_s=max(waits, default=None))


def _refusal(failure: CallFailed) -> CallError:
    violations = [(violation.field, violation.description) for violation in failure.violations]
    return CallError(failure.code, failure.details, violations=violations, retry_after_s=failure.retry_after_s)
