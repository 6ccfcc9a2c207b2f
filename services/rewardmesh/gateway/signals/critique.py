"""`{judge: template, mode: critique}`: what a judge says in words of each sample, tied to parts of it.

The points stay beside the value and reach the trainer, where span-level algorithms learn from them. As a number a critique is the mean
value of its points, or with `value: revision` the probability that the answer is no worse than what the judge would make of it. A
critique without a valued point has no number: silence is no praise.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from rewardmesh.gateway.asking import Metadata
from rewardmesh.gateway.program import CritiqueSignal
from rewardmesh.gateway.signals.judge import JudgeAsker
from rewardmesh.serving.validation import absence
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import judge_service_pb2 as api


class CritiqueAsker(JudgeAsker[CritiqueSignal, pb.Sample]):
    """Asks a JudgeService for critiques."""

    answer_field = "critique"

    def questions(self, samples: Sequence[pb.Sample]) -> list[pb.Sample]:
        return list(samples)

    async def call(
        self, questions: Sequence[pb.Sample], pin: pb.ModelRef | None, timeout_s: float, metadata: Metadata
    ) -> Sequence[api.CritiqueOutcome]:
        signal = self.signal
        revised = signal.value == "revision"
        request = api.CritiqueRequest(
            model=self.model(pin),
            template=signal.judge,
            samples=questions,
            want_revision=revised,
            compare_revision=revised,
            max_points=signal.max_points,
            temperature=signal.temperature,
            seed=signal.seed,
        )
        return (await self._stub.Critique(request, timeout=timeout_s, metadata=metadata)).outcomes

    def outcome_id(self, outcome: api.CritiqueOutcome) -> str:
        return outcome.sample_id

    def value_of(self, outcome: api.CritiqueOutcome) -> float | pb.Absence:
        critique = outcome.critique
        if self.signal.value == "revision":
            if not critique.HasField("revision_preference"):
                return absence(pb.ABSENCE_REASON_UNPARSABLE, "the critique has no revision that was compared")
            return 1.0 - critique.revision_preference.p_a
        values = [span.value for span in critique.spans if span.HasField("value")]
        return fmean(values) if values else absence(pb.ABSENCE_REASON_ABSTAINED, "the critique makes no point with a value")
