"""`{judge: template, mode: compare, against: group}`: the win rate of each sample against the others of its group.

Every unordered pair is asked once, and the judge is told to show both orders. Verdicts stay probabilities: the rows and the matrix keep
them for losses that use them as they are; only the win rate enters the program as a number.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import combinations

from rewardmesh.client import pack_floats
from rewardmesh.gateway.asking import Answer, Metadata, Reading, retryable
from rewardmesh.gateway.program import CompareSignal
from rewardmesh.gateway.signals.judge import JudgeAsker
from rewardmesh.serving.validation import absence
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import judge_service_pb2 as api
from rewardmesh.v1 import mesh_service_pb2 as mesh


class PairAsker(JudgeAsker[CompareSignal, api.Pair]):
    """Asks a JudgeService for preferences; which pairs, and what becomes of them, is a subclass's."""

    async def call(
        self, questions: Sequence[api.Pair], pin: pb.ModelRef | None, timeout_s: float, metadata: Metadata
    ) -> Sequence[api.PreferenceOutcome]:
        signal = self.signal
        request = api.CompareRequest(
            model=self.model(pin),
            template=signal.judge,
            pairs=questions,
            orders=api.COMPARE_ORDERS_BOTH,
            votes=signal.votes,
            temperature=signal.temperature,
            seed=signal.seed,
            want_rationale=signal.rationale,
        )
        return (await self._stub.Compare(request, timeout=timeout_s, metadata=metadata)).outcomes

    def outcome_id(self, outcome: api.PreferenceOutcome) -> str:
        return outcome.pair_id

    def value_of(self, outcome: api.PreferenceOutcome) -> float:
        return outcome.preference.p_a


class CompareAsker(PairAsker):
    """Compares the members of a group with each other."""

    def questions(self, samples: Sequence[pb.Sample]) -> list[api.Pair]:
        return [
            compared(pair_id(i, j), samples[i], samples[j].completion, samples[i].references)
            for i, j in combinations(range(len(samples)), 2)
        ]

    def answers(self, samples: Sequence[pb.Sample], readings: Sequence[Reading]) -> list[Answer]:
        return [self._answer(index, samples, readings) for index in range(len(samples))]

    def lacking(self, samples: Sequence[pb.Sample], readings: Sequence[Reading]) -> list[pb.Absence | None]:
        # A win rate can be had from some of the pairs, but a signal that is waited for is waited for in full.
        found: list[pb.Absence | None] = [None] * len(samples)
        for pair, reading in zip(combinations(range(len(samples)), 2), readings, strict=True):
            for place in pair:
                found[place] = found[place] or retryable(reading)
        return found

    def preferences(self, group_id: str, samples: Sequence[pb.Sample], readings: Sequence[Reading]) -> mesh.GroupPreferences | None:
        size = len(samples)
        if size < 2:
            return None
        matrix = [[0.5 if i == j else math.nan for j in range(size)] for i in range(size)]
        for (i, j), reading in zip(combinations(range(size), 2), readings, strict=True):
            if isinstance(reading.value, float):
                matrix[i][j], matrix[j][i] = reading.value, 1.0 - reading.value
        return mesh.GroupPreferences(
            group_id=group_id,
            signal=self.name,
            sample_ids=[sample.id for sample in samples],
            matrix=api.PreferenceMatrix(probabilities=pack_floats(p for row in matrix for p in row), size=size),
        )

    def _answer(self, index: int, samples: Sequence[pb.Sample], readings: Sequence[Reading]) -> Answer:
        row = mesh.PreferenceRow()
        values: list[float] = []
        lost: list[pb.Absence] = []
        attempts = 0
        for (i, j), reading in zip(combinations(range(len(samples)), 2), readings, strict=True):
            if index not in (i, j):
                continue
            other = j if index == i else i
            attempts = max(attempts, reading.attempts)
            row.sample_ids.append(samples[other].id)
            row.outcomes.append(_outcome(pair_id(index, other), reading, swapped=index == j))
            if isinstance(reading.value, pb.Absence):
                lost.append(reading.value)
            else:
                values.append(reading.value if index == i else 1.0 - reading.value)
        component = mesh.Component(signal=self.name, preferences=row, attempts=attempts)
        if values:
            win_rate = sum(values) / len(values)
            component.preferences.win_rate = win_rate
            return Answer(win_rate, component)
        if not lost:
            return Answer(absence(pb.ABSENCE_REASON_NOT_APPLICABLE, "the group has no other member to compare with"), component)
        # One verdict would be enough for a win rate, so it can be had when any of them can.
        return Answer(next((reason for reason in lost if reason.retryable), lost[0]), component)


def pair_id(a: int, b: int) -> str:
    """Id of a pair, from the places of its samples in the group."""
    return f"{a}:{b}"


def flipped(preference: api.Preference) -> api.Preference:
    """The same verdict with a and b exchanged."""
    result = api.Preference()
    result.CopyFrom(preference)
    result.p_a = 1.0 - preference.p_a
    result.p_a_as_given = 1.0 - preference.p_a_as_given
    if preference.HasField("p_a_swapped"):
        # What was shown as (a, b) is the swapped order of (b, a).
        result.p_a_as_given, result.p_a_swapped = 1.0 - preference.p_a_swapped, 1.0 - preference.p_a_as_given
    return result


def compared(name: str, sample: pb.Sample, other: pb.Completion, references: Iterable[str]) -> api.Pair:
    """The question whether a sample is better than another answer to its prompt."""
    pair = api.Pair(id=name, prompt=sample.prompt, a=shown(sample.completion), b=shown(other), references=references)
    if sample.HasField("context"):
        pair.context.CopyFrom(sample.context)
    return pair


def _outcome(name: str, reading: Reading, *, swapped: bool) -> api.PreferenceOutcome:
    result = api.PreferenceOutcome(pair_id=name)
    if reading.outcome is not None:
        result.provenance.CopyFrom(reading.outcome.provenance)
    if isinstance(reading.value, pb.Absence):
        result.absence.CopyFrom(reading.value)
    else:
        result.preference.CopyFrom(flipped(reading.outcome.preference) if swapped else reading.outcome.preference)
    return result


def shown(completion: pb.Completion) -> pb.Completion:
    """What a judge reads: k answers appear in k - 1 pairs each, so their token ids and log-probs are left out where there is text."""
    if not completion.text:
        return completion
    return pb.Completion(text=completion.text, finish_reason=completion.finish_reason)
