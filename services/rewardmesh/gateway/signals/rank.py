"""`{judge: template, mode: rank}`: each sample's score in one ranking of its group.

The pairwise matrix behind a ranking reaches the trainer as that of `compare` does; a list that was read at once has none.
"""

from __future__ import annotations

from collections.abc import Sequence

from rewardmesh.gateway.asking import Answer, Metadata, Reading, retryable
from rewardmesh.gateway.program import RankSignal
from rewardmesh.gateway.signals.compare import shown
from rewardmesh.gateway.signals.judge import JudgeAsker
from rewardmesh.serving.validation import absence
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import judge_service_pb2 as api
from rewardmesh.v1 import mesh_service_pb2 as mesh


class RankAsker(JudgeAsker[RankSignal, api.RankGroup]):
    """Asks a JudgeService to rank a group; one question a group."""

    def questions(self, samples: Sequence[pb.Sample]) -> list[api.RankGroup]:
        if len(samples) < 2:
            return []
        first = samples[0]
        group = api.RankGroup(
            id="group", prompt=first.prompt, completions=[shown(sample.completion) for sample in samples], references=first.references
        )
        if first.HasField("context"):
            group.context.CopyFrom(first.context)
        return [group]

    async def call(
        self, questions: Sequence[api.RankGroup], pin: pb.ModelRef | None, timeout_s: float, metadata: Metadata
    ) -> Sequence[api.RankingOutcome]:
        signal = self.signal
        request = api.RankRequest(
            model=self.model(pin),
            template=signal.judge,
            groups=questions,
            method=api.RankMethod.Value(f"RANK_METHOD_{signal.method.upper()}"),
            aggregation=api.RankAggregation.Value(f"RANK_AGGREGATION_{signal.aggregation.upper()}"),
            pairs_per_answer=signal.pairs_per_answer,
            repeats=signal.repeats,
            votes=signal.votes,
            temperature=signal.temperature,
            seed=signal.seed,
        )
        return (await self._stub.Rank(request, timeout=timeout_s, metadata=metadata)).outcomes

    def outcome_id(self, outcome: api.RankingOutcome) -> str:
        return outcome.group_id

    def value_of(self, outcome: api.RankingOutcome) -> float | pb.Absence:
        # One reading stands for the whole group: its members' values are read in `answers`.
        return self.signal.scale.min if self.signal.scale.bounded else 0.0

    def answers(self, samples: Sequence[pb.Sample], readings: Sequence[Reading]) -> list[Answer]:
        if not readings:
            lost = absence(pb.ABSENCE_REASON_NOT_APPLICABLE, "the group has no other member to rank it with")
            return [Answer(lost, mesh.Component(signal=self.name)) for _ in samples]
        [reading] = readings
        component = mesh.Component(signal=self.name, attempts=reading.attempts)
        if isinstance(reading.value, pb.Absence):
            return [Answer(reading.value, _copy(component)) for _ in samples]
        scores = reading.outcome.ranking.scores
        if len(scores) != len(samples):
            lost = absence(pb.ABSENCE_REASON_INFRASTRUCTURE, f"the ranking scores {len(scores)} answers, the group has {len(samples)}")
            return [Answer(lost, _copy(component)) for _ in samples]
        return [Answer(self.checked(score), _copy(component)) for score in scores]

    def lacking(self, samples: Sequence[pb.Sample], readings: Sequence[Reading]) -> list[pb.Absence | None]:
        return [retryable(readings[0]) if readings else None] * len(samples)

    def preferences(self, group_id: str, samples: Sequence[pb.Sample], readings: Sequence[Reading]) -> mesh.GroupPreferences | None:
        if not readings or isinstance(readings[0].value, pb.Absence) or readings[0].outcome.ranking.pair_matrix.size != len(samples):
            return None
        return mesh.GroupPreferences(
            group_id=group_id,
            signal=self.name,
            sample_ids=[sample.id for sample in samples],
            matrix=readings[0].outcome.ranking.pair_matrix,
        )


def _copy(component: mesh.Component) -> mesh.Component:
    own = mesh.Component()
    own.CopyFrom(component)
    return own
