"""`critics`: several members criticise, and what they say is merged; a critic of critics may weigh it.

    critique: {rule: critics, members: [small, large], min_votes: 2, judge: referee, rubric: critique-quality, keep: merge}

Points of different members about overlapping parts of the answer are one point; those that too few make are dropped. With a `judge` every
critique is itself graded as an answer: its grade weighs its points (`merge`), or the best critique is taken whole (`best`). Multi-agent
critiques, merged and ranked: Lan et al. 2024 (MultiCritique, arXiv 2410.15287). Departure: points are merged by their place in the answer,
not by a summarising model.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar, Literal

from pydantic import Field

from rewardmesh.panel.absences import abstained, majority_of, too_few
from rewardmesh.panel.asking import Ask, at_once, by_item, parted
from rewardmesh.panel.points import merge_points
from rewardmesh.panel.rules.base import Answerer, MembersRule, Method
from rewardmesh.panel.spec import MemberSpec
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import judge_service_pb2 as api

Weights = Mapping[str, float]


class Critics(MembersRule):
    """Many critiques made one."""

    methods: ClassVar[tuple[Method, ...]] = ("critique",)
    rule: Literal["critics"]
    quorum: int | None = Field(None, ge=1, description="members that must give a critique, else the panel abstains; unset: more than half")
    min_votes: float = Field(
        1.0, gt=0, description="weight of members that must make a point (weights are 1 unless set; with a judge, times its grade)"
    )
    overlap: float = Field(0.5, gt=0, le=1, description="share of the shorter of two spans that the other must cover to be the same point")
    judge: str = Field("", description="member that grades the critiques; empty: none")
    rubric: str = Field("", description="rubric of that judge; empty: its own")
    keep: Literal["merge", "best"] = Field("merge", description="merge all points, or keep the best critique whole (needs a judge)")

    def seats(self, everyone: Sequence[str]) -> dict[str, list[str]]:
        """See the base; the judge criticises only when it is named among the members."""
        critics = self.members or tuple(name for name in everyone if name != self.judge)
        return {"members": list(critics)} | ({"judge": [self.judge]} if self.judge else {})

    def objection(self, method: Method, seats: Mapping[str, list[str]]) -> str | None:
        """What needs a judge without one, or a quorum that can never be met."""
        if not self.judge and (self.keep == "best" or self.rubric):
            return f"{'keep: best' if self.keep == 'best' else 'rubric'}: needs a judge that grades the critiques; set judge"
        if self.quorum is not None and self.quorum > len(seats["members"]):
            return f"quorum: {self.quorum} members can never answer, {len(seats['members'])} take part"
        return None

    def answerer(self, panel: str, specs: Mapping[str, MemberSpec]) -> Answerer:
        """See the base."""
        return _CriticsAnswerer(self, {name: specs[name].weight for name in self.seats(list(specs))["members"]})


class _CriticsAnswerer(Answerer):
    def __init__(self, rule: Critics, weights: Weights) -> None:
        self._rule = rule
        self._weights = weights
        self._quorum = rule.quorum or majority_of(len(weights))

    def suffices(self, up: Collection[str]) -> bool:
        judged = not self._rule.judge or self._rule.judge in up
        return judged and len(set(self._weights) & set(up)) >= self._quorum

    async def critique(self, ask: Ask, samples: Sequence[pb.Sample]) -> list[api.Critique | pb.Absence]:
        answers = await at_once(self._weights, lambda member: ask.critique(member, samples))
        written = [parted(found) for found in by_item(answers, len(samples))]
        weighed = await self._weigh(ask, samples, [found for found, _ in written])
        return [
            too_few(len(found), len(self._weights), self._quorum, lost) or self._decide(sample, found, weights)
            for sample, (found, lost), weights in zip(samples, written, weighed, strict=True)
        ]

    async def _weigh(
        self, ask: Ask, samples: Sequence[pb.Sample], written: Sequence[Mapping[str, api.Critique]]
    ) -> list[Weights | pb.Absence]:
        """What each critique of each sample weighs: the member's weight, times the judge's grade of the critique where there is a judge."""
        if not self._rule.judge:
            return [self._weights] * len(samples)
        critiques = [
            (index, name, _as_sample(f"{index}/{name}", samples[index], critique))
            for index, found in enumerate(written)
            for name, critique in found.items()
            if critique.text
        ]
        owners = {sample.id: samples[index].id for index, _, sample in critiques}
        grades = await ask.under(owners).grade(self._rule.judge, [sample for _, _, sample in critiques], rubric=self._rule.rubric)
        weights: list[dict[str, float]] = [{} for _ in samples]
        lost: list[dict[str, pb.Absence]] = [{} for _ in samples]
        for (index, name, _), grade in zip(critiques, grades, strict=True):
            if isinstance(grade, pb.Absence):
                lost[index][f"{self._rule.judge} of {name}"] = grade
            else:
                weights[index][name] = self._weights[name] * grade.total
        return [found if found else abstained("no critique was graded", gone) for found, gone in zip(weights, lost, strict=True)]

    def _decide(self, sample: pb.Sample, found: Mapping[str, api.Critique], weights: Weights | pb.Absence) -> api.Critique | pb.Absence:
        if isinstance(weights, pb.Absence):
            return weights
        weighed = {name: critique for name, critique in found.items() if name in weights}
        best = max(weighed, key=lambda name: weights[name])
        if self._rule.keep == "best":
            kept = api.Critique()
            kept.CopyFrom(weighed[best])
            return kept
        return merge(weighed, weights, best, self._rule.min_votes, self._rule.overlap)


def merge(found: Mapping[str, api.Critique], weights: Weights, best: str, min_votes: float, overlap: float) -> api.Critique:
    """One critique: the members' texts, each under its name, and the points that enough of them make.

    The revision is that which beats the original most clearly where revisions were compared with it, else that of the best critique.
    """
    points = {name: list(critique.spans) for name, critique in found.items()}
    result = api.Critique(
        text="\n\n".join(f"{name}: {critique.text}" for name, critique in found.items() if critique.text),
        spans=merge_points(points, weights, min_votes=min_votes, overlap=overlap),
        unplaced_points=sum(critique.unplaced_points for critique in found.values()),
    )
    revised = {name: critique for name, critique in found.items() if critique.HasField("revised_completion")}
    if revised:
        compared = {name: critique for name, critique in revised.items() if critique.HasField("revision_preference")}
        chosen = max(compared, key=lambda name: compared[name].revision_preference.p_a) if compared else next(iter(revised), best)
        if not compared and best in revised:
            chosen = best
        result.revised_completion.CopyFrom(revised[chosen].revised_completion)
        if revised[chosen].HasField("revision_preference"):
            result.revision_preference.CopyFrom(revised[chosen].revision_preference)
    return result


def _as_sample(identifier: str, sample: pb.Sample, critique: api.Critique) -> pb.Sample:
    """The critique as an answer: after the dialogue and the answer it is about."""
    answer = pb.Message(role=pb.ROLE_ASSISTANT, content=sample.completion.text)
    graded = pb.Sample(
        id=identifier, prompt=[*sample.prompt, answer], completion=pb.Completion(text=critique.text), references=sample.references
    )
    if sample.HasField("context"):
        graded.context.CopyFrom(sample.context)
    return graded
