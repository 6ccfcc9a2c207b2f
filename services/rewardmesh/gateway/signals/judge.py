"""What all signals of a judge share: the service that is asked, and the model that must answer."""

from __future__ import annotations

from typing import Generic, TypeVar

from rewardmesh.gateway.asking import Asker, Q
from rewardmesh.gateway.backends import Backend
from rewardmesh.gateway.program import CompareSignal, CritiqueSignal, GradeSignal, RankSignal
from rewardmesh.gateway.signals.reward import pinned_model
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1.judge_service_pb2_grpc import JudgeServiceStub

J = TypeVar("J", bound=CompareSignal | CritiqueSignal | GradeSignal | RankSignal)


class JudgeAsker(Asker[J, Q], Generic[J, Q]):
    """Asks a JudgeService."""

    def __init__(self, name: str, signal: J, backend: Backend) -> None:
        super().__init__(name, signal, backend)
        self._stub = JudgeServiceStub(backend.channel)

    def model(self, pin: pb.ModelRef | None) -> pb.ModelRef | None:
        """The model to ask for; None for the service's own."""
        return pinned_model(self.signal.model, pin) if self.signal.model or pin is not None else None
