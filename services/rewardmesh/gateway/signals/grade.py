"""`{judge: rubric, mode: grade}`: the total of a judge's grades."""

from __future__ import annotations

from collections.abc import Sequence

from rewardmesh.gateway.asking import Metadata
from rewardmesh.gateway.program import GradeSignal
from rewardmesh.gateway.signals.judge import JudgeAsker
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import judge_service_pb2 as api


class GradeAsker(JudgeAsker[GradeSignal, pb.Sample]):
    """Asks a JudgeService for grades."""

    answer_field = "grades"

    def questions(self, samples: Sequence[pb.Sample]) -> list[pb.Sample]:
        return list(samples)

    async def call(
        self, questions: Sequence[pb.Sample], pin: pb.ModelRef | None, timeout_s: float, metadata: Metadata
    ) -> Sequence[api.GradesOutcome]:
        signal = self.signal
        request = api.GradeRequest(
            model=self.model(pin),
            rubric=signal.judge,
            samples=questions,
            votes=signal.votes,
            temperature=signal.temperature,
            seed=signal.seed,
            want_rationale=signal.rationale,
        )
        return (await self._stub.Grade(request, timeout=timeout_s, metadata=metadata)).outcomes

    def outcome_id(self, outcome: api.GradesOutcome) -> str:
        return outcome.sample_id

    def value_of(self, outcome: api.GradesOutcome) -> float:
        return outcome.grades.total
