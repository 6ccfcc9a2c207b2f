"""`{reward: helpful-rm}`: the value of a reward model, or one of its objectives."""

from __future__ import annotations

from collections.abc import Sequence

from rewardmesh.gateway.asking import Asker, Metadata
from rewardmesh.gateway.backends import Backend
from rewardmesh.gateway.program import RewardSignal
from rewardmesh.serving.validation import absence
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import reward_service_pb2 as api
from rewardmesh.v1.reward_service_pb2_grpc import RewardServiceStub


class RewardAsker(Asker[RewardSignal, pb.Sample]):
    """Asks a RewardService."""

    answer_field = "reward"

    def __init__(self, name: str, signal: RewardSignal, backend: Backend) -> None:
        super().__init__(name, signal, backend)
        self._stub = RewardServiceStub(backend.channel)

    def questions(self, samples: Sequence[pb.Sample]) -> list[pb.Sample]:
        return list(samples)

    async def call(
        self, questions: Sequence[pb.Sample], pin: pb.ModelRef | None, timeout_s: float, metadata: Metadata
    ) -> Sequence[pb.Outcome]:
        options = api.ScoreOptions()
        if self.signal.reward or pin is not None:
            options.model.CopyFrom(pinned_model(self.signal.reward, pin))
        wanted = {*self.signal.want, *(["objectives"] if self.signal.objective else [])}
        if wanted:
            options.want.CopyFrom(api.RewardWants(**dict.fromkeys(wanted, True)))
        request = api.ScoreRequest(options=options, samples=questions)
        return (await self._stub.Score(request, timeout=timeout_s, metadata=metadata)).outcomes

    def outcome_id(self, outcome: pb.Outcome) -> str:
        return outcome.sample_id

    def value_of(self, outcome: pb.Outcome) -> float | pb.Absence:
        name = self.signal.objective
        if name is None:
            return outcome.reward.value
        found = {objective.name: objective.value for objective in outcome.reward.objectives}
        if name not in found:
            known = ", ".join(sorted(found)) or "none"
            return absence(pb.ABSENCE_REASON_INVALID_INPUT, f"the reward has no objective {name!r} (has: {known})")
        return found[name]


def pinned_model(name: str, pin: pb.ModelRef | None) -> pb.ModelRef:
    """The model to ask for: the signal's name with the pinned version."""
    if pin is None:
        return pb.ModelRef(name=name)
    return pb.ModelRef(name=name or pin.name, version=pin.version, fingerprint=pin.fingerprint)
