"""`{judge: template, mode: compare, against: references}`: the mean probability of each sample to be better than its reference answers.

The win probability against an anchor answer is a reward that needs no group (Xu et al. 2025, "A Unified Pairwise Framework for RLHF",
arXiv 2504.04950). The judge is not shown the references beside the pair: they are what the sample is compared with.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rewardmesh.gateway.asking import Answer, Reading, retryable
from rewardmesh.gateway.signals.compare import PairAsker, compared
from rewardmesh.serving.validation import absence
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import judge_service_pb2 as api
from rewardmesh.v1 import mesh_service_pb2 as mesh


class CompareReferencesAsker(PairAsker):
    """Compares every sample with its references."""

    def questions(self, samples: Sequence[pb.Sample]) -> list[api.Pair]:
        return [
            compared(f"{place}:{number}", sample, pb.Completion(text=reference), ())
            for place, sample in enumerate(samples)
            for number, reference in enumerate(sample.references)
        ]

    def answers(self, samples: Sequence[pb.Sample], readings: Sequence[Reading]) -> list[Answer]:
        return [self._answer(own) for own in _by_sample(samples, readings)]

    def lacking(self, samples: Sequence[pb.Sample], readings: Sequence[Reading]) -> list[pb.Absence | None]:
        return [next(filter(None, map(retryable, own)), None) for own in _by_sample(samples, readings)]

    def _answer(self, readings: Sequence[Reading]) -> Answer:
        row = mesh.PreferenceRow()
        values: list[float] = []
        lost: list[pb.Absence] = []
        for number, reading in enumerate(readings):
            name = f"reference:{number}"
            row.sample_ids.append(name)
            outcome = row.outcomes.add(pair_id=name)
            if reading.outcome is not None:
                outcome.provenance.CopyFrom(reading.outcome.provenance)
            if isinstance(reading.value, pb.Absence):
                outcome.absence.CopyFrom(reading.value)
                lost.append(reading.value)
            else:
                outcome.preference.CopyFrom(reading.outcome.preference)
                values.append(reading.value)
        attempts = max((reading.attempts for reading in readings), default=0)
        component = mesh.Component(signal=self.name, preferences=row, attempts=attempts)
        if values:
            component.preferences.win_rate = sum(values) / len(values)
            return Answer(component.preferences.win_rate, component)
        if not lost:
            return Answer(absence(pb.ABSENCE_REASON_NOT_APPLICABLE, "references: the sample has none to compare with"), component)
        return Answer(next((reason for reason in lost if reason.retryable), lost[0]), component)


def _by_sample(samples: Sequence[pb.Sample], readings: Sequence[Reading]) -> Iterator[list[Reading]]:
    rest = iter(readings)
    for sample in samples:
        yield [next(rest) for _ in sample.references]
