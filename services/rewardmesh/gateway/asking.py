"""Asking a service about the samples of one group: what every kind of signal shares.

A signal turns samples into questions (a sample each, or a pair of samples), sends them in one call, and reads the outcomes. Whatever can
go wrong with an outcome (a failed call, a missing or wrong item, another version, a number that is none) becomes a typed absence here.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import grpc
from opentelemetry import propagate, trace

from rewardmesh.gateway.backends import Backend
from rewardmesh.gateway.program import Scale, Signal
from rewardmesh.serving.validation import absence
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import mesh_service_pb2 as mesh

tracer = trace.get_tracer("rewardmesh.gateway")

Metadata = tuple[tuple[str, str], ...]
Version = tuple[str, int, str]
"""Name, version and fingerprint of a model."""


class Question(Protocol):
    """A Sample or a Pair."""

    @property
    def id(self) -> str: ...


Q = TypeVar("Q", bound=Question)
S = TypeVar("S", bound=Signal)


@dataclass(frozen=True)
class Reading:
    """What came of one question: a value or an absence, with the service's own outcome and the model's version where there was one."""

    value: float | pb.Absence
    outcome: Any = None
    version: Version | None = None
    attempts: int = 0
    """Calls it took."""


@dataclass(frozen=True)
class Answer:
    """What a signal says of one sample: a value or an absence, and the component with the service's full answer."""

    value: float | pb.Absence
    component: mesh.Component


class Asker(ABC, Generic[S, Q]):
    """One signal of one program with the backend that answers it."""

    answer_field: str
    """Field of `mesh.Component` that holds the outcome."""

    def __init__(self, name: str, signal: S, backend: Backend) -> None:
        self.name = name
        self.signal = signal
        self.backend = backend

    @abstractmethod
    def questions(self, samples: Sequence[pb.Sample]) -> list[Q]:
        """What to ask about the samples of a group, in an order that depends on nothing but theirs."""

    @abstractmethod
    async def call(self, questions: Sequence[Q], pin: pb.ModelRef | None, timeout_s: float, metadata: Metadata) -> Sequence[Any]:
        """Send one call; returns the outcome messages."""

    @abstractmethod
    def outcome_id(self, outcome: Any) -> str:
        """Id of the question that an outcome answers."""

    @abstractmethod
    def value_of(self, outcome: Any) -> float | pb.Absence:
        """The number in an outcome that is not absent."""

    def answers(self, samples: Sequence[pb.Sample], readings: Sequence[Reading]) -> list[Answer]:
        """One answer a sample, from the readings of all questions, in order."""
        found = []
        for reading in readings:
            component = mesh.Component(signal=self.name, attempts=reading.attempts)
            if reading.outcome is not None:
                getattr(component, self.answer_field).CopyFrom(reading.outcome)
            found.append(Answer(reading.value, component))
        return found

    def lacking(self, samples: Sequence[pb.Sample], readings: Sequence[Reading]) -> list[pb.Absence | None]:
        """For each sample, the absence that another call might lift; None when it has all that can be had."""
        return [retryable(reading) for reading in readings]

    def preferences(self, group_id: str, samples: Sequence[pb.Sample], readings: Sequence[Reading]) -> mesh.GroupPreferences | None:
        """The group's pairwise matrix; None for a signal that does not compare."""
        return None

    async def ask(self, questions: Sequence[Q], pin: pb.ModelRef | None, timeout_s: float, metadata: Metadata) -> list[Reading]:
        """Ask once; one reading a question, in order. Raises nothing but CancelledError."""
        with tracer.start_as_current_span(f"signal {self.name}", kind=trace.SpanKind.CLIENT) as span:
            span.set_attribute("rewardmesh.backend", self.backend.target)
            carrier: dict[str, str] = {}
            propagate.inject(carrier)
            try:
                outcomes = await self.call(questions, pin, timeout_s, (*metadata, *carrier.items()))
            except grpc.aio.AioRpcError as error:
                lost = self.backend.failed(error, pinned=pin is not None)
                span.set_attribute("rewardmesh.absence", lost.detail)
                return [Reading(lost)] * len(questions)
        self.backend.succeeded()
        if [self.outcome_id(outcome) for outcome in outcomes] != [question.id for question in questions]:
            lost = absence(
                pb.ABSENCE_REASON_INFRASTRUCTURE,
                f"backend {self.backend.name!r} answered {len(outcomes)} items for {len(questions)} asked, or others, or in another order",
            )
            return [Reading(lost)] * len(questions)
        return [self._read(outcome, pin) for outcome in outcomes]

    def _read(self, outcome: Any, pin: pb.ModelRef | None) -> Reading:
        model = outcome.provenance.model if outcome.provenance.HasField("model") else None
        version = (model.name, model.version, model.fingerprint) if model is not None else None
        kind = outcome.WhichOneof("result")
        if kind == "absence":
            lost = pb.Absence()
            lost.CopyFrom(outcome.absence)
            if lost.reason == pb.ABSENCE_REASON_UNSPECIFIED:
                lost.reason = pb.ABSENCE_REASON_INFRASTRUCTURE
            return Reading(lost, outcome, version)
        if kind is None:
            return Reading(absence(pb.ABSENCE_REASON_INFRASTRUCTURE, f"backend {self.backend.name!r} answered neither value nor absence"))
        if pin is not None and not _satisfies(model, pin):
            answered = f"version {model.version} {model.fingerprint}".rstrip() if model is not None else "no version"
            pinned = f"version {pin.version} {pin.fingerprint}".rstrip()
            lost = absence(pb.ABSENCE_REASON_INFRASTRUCTURE, f"{answered} answered, {pinned} is pinned", retryable=True)
            return Reading(lost, outcome, version)
        return Reading(self.checked(self.value_of(outcome)), outcome, version)

    def checked(self, value: float | pb.Absence) -> float | pb.Absence:
        """A service's number, or why it is none on the signal's scale."""
        return _checked(value, self.signal.scale)


def retryable(reading: Reading) -> pb.Absence | None:
    """The absence that another call might lift, or None."""
    return reading.value if isinstance(reading.value, pb.Absence) and reading.value.retryable else None


def _satisfies(model: pb.ModelRef | None, pin: pb.ModelRef) -> bool:
    if model is None:
        return False
    return pin.version in (0, model.version) and pin.fingerprint in ("", model.fingerprint)


def _checked(value: float | pb.Absence, scale: Scale) -> float | pb.Absence:
    """Refuse what is no number on the signal's scale; rounding at its ends is forgiven."""
    if isinstance(value, pb.Absence):
        return value
    if not math.isfinite(value):
        return absence(pb.ABSENCE_REASON_NON_FINITE, f"the service answered {value}")
    if not scale.min - 1e-5 <= value <= scale.max + 1e-5:
        return absence(
            pb.ABSENCE_REASON_INVALID_INPUT, f"the service answered {value:g}, outside the signal's scale [{scale.min:g}, {scale.max:g}]"
        )
    return min(max(value, scale.min), scale.max)
