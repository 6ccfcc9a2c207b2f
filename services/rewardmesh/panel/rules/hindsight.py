"""`hindsight`: members write what came of an answer, and another judges with that before it.

    default: {rule: hindsight, writers: [simulator], judge: referee, template: outcome}

An outcome is the text of a Critique by a template that tells its writer to write what follows. The judge reads it as a note: its template
has to show {{ notes }}. RLHS: Liang et al. 2025 (arXiv 2501.08617). Departure: several writers (personas, each a member with notes or a
template of its own) may each write an outcome.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar, Literal

from pydantic import Field

from rewardmesh.panel.absences import abstained, too_few
from rewardmesh.panel.asking import Ask, at_once, by_item, parted, with_notes
from rewardmesh.panel.ordered_notes import Notes, compare_with_notes
from rewardmesh.panel.rules.base import Answerer, Method, Rule
from rewardmesh.panel.spec import MemberSpec
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import judge_service_pb2 as api


class Hindsight(Rule):
    """Some write the outcome, one judges."""

    methods: ClassVar[tuple[Method, ...]] = ("compare", "rank", "grade")
    rule: Literal["hindsight"]
    writers: tuple[str, ...] = Field(min_length=1, description="those who write what came of an answer")
    judge: str = Field(description="the one who judges; its templates show {{ notes }}")
    template: str = Field("", description="critique template that writes an outcome; empty: each member's own")
    quorum: int | None = Field(None, ge=1, description="writers that must have written of every answer; unset: all")

    def seats(self, everyone: Sequence[str]) -> dict[str, list[str]]:
        """See the base."""
        return {"writers": list(self.writers), "judge": [self.judge]}

    def objection(self, method: Method, seats: Mapping[str, list[str]]) -> str | None:
        """A quorum that can never be met, or a writer who is named twice."""
        if len(set(self.writers)) < len(self.writers):
            return "writers: names a member twice; a second entry in members with notes of its own is another writer"
        if self.quorum is not None and self.quorum > len(self.writers):
            return f"quorum: {self.quorum} writers can never answer, there are {len(self.writers)}"
        return None

    def answerer(self, panel: str, specs: Mapping[str, MemberSpec]) -> Answerer:
        """See the base."""
        return _HindsightAnswerer(self)


class _HindsightAnswerer(Answerer):
    def __init__(self, rule: Hindsight) -> None:
        self._rule = rule
        self._quorum = rule.quorum or len(rule.writers)

    def suffices(self, up: Collection[str]) -> bool:
        return self._rule.judge in up and len(set(self._rule.writers) & set(up)) >= self._quorum

    async def compare(self, ask: Ask, pairs: Sequence[api.Pair]) -> list[api.Preference | pb.Absence]:
        samples: list[pb.Sample] = []
        owners: dict[str, str] = {}
        for pair in pairs:
            for completion in (pair.a, pair.b):
                sample = pb.Sample(id=f"{len(samples)}", prompt=pair.prompt, completion=completion, references=pair.references)
                if pair.HasField("context"):
                    sample.context.CopyFrom(pair.context)
                owners[sample.id] = pair.id
                samples.append(sample)
        outcomes = await self._outcomes(ask.under(owners), samples)
        given: list[Notes] = []
        swapped: list[Notes] = []
        for first, second in zip(outcomes[::2], outcomes[1::2], strict=True):
            given.append(self._of_two(first, second))
            swapped.append(self._of_two(second, first))
        return await compare_with_notes(ask, self._rule.judge, pairs, given, swapped)

    async def grade(self, ask: Ask, samples: Sequence[pb.Sample]) -> list[api.Grades | pb.Absence]:
        notes = [self._of_one(written) for written in await self._outcomes(ask, samples)]
        ready = [with_notes(sample, found) for sample, found in zip(samples, notes, strict=True) if not isinstance(found, pb.Absence)]
        grades = iter(await ask.grade(self._rule.judge, ready))
        return [found if isinstance(found, pb.Absence) else self._graded(next(grades)) for found in notes]

    async def _outcomes(self, ask: Ask, samples: Sequence[pb.Sample]) -> list[dict[str, api.Critique | pb.Absence]]:
        written = await at_once(self._rule.writers, lambda writer: ask.critique(writer, samples, template=self._rule.template))
        return by_item(written, len(samples))

    def _graded(self, grades: api.Grades | pb.Absence) -> api.Grades | pb.Absence:
        return abstained("the judge gave no grade", {self._rule.judge: grades}) if isinstance(grades, pb.Absence) else grades

    def _of_one(self, written: Mapping[str, api.Critique | pb.Absence]) -> Notes:
        found, lost = parted(written)
        return too_few(len(found), len(self._rule.writers), self._quorum, lost) or [
            f"What came of the answer: {outcome.text}" for outcome in found.values()
        ]

    def _of_two(self, first: Mapping[str, api.Critique | pb.Absence], second: Mapping[str, api.Critique | pb.Absence]) -> Notes:
        """Notes of the writers who wrote of both answers: an outcome of one of them alone would weigh on the other."""
        (one, lost), (other, also_lost) = parted(first), parted(second)
        both = [writer for writer in one if writer in other]
        return too_few(len(both), len(self._rule.writers), self._quorum, lost | also_lost) or [
            f"What came of the {place} answer: {outcomes[writer].text}"
            for writer in both
            for place, outcomes in (("first", one), ("second", other))
        ]
