"""`constraints`: every member watches over one constraint, and an answer that violates any of them gets 0.

    grade: {rule: constraints, members: [safe, honest], thresholds: {honest: 0.7}, combine: min}

A member's total at or above its threshold is a pass. The grades name every constraint with the member's own number; the rationale of a
violated one begins with "violated". Mixture of constraint judges: Xu et al. 2024 (CGPO, arXiv 2409.20370). Departure: what remains of an
answer that holds all may be graded by how well it does.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar, Literal

from pydantic import Field

from rewardmesh.panel.absences import abstained
from rewardmesh.panel.asking import Ask, at_once, by_item, parted
from rewardmesh.panel.rules.base import Answerer, MembersRule, Method
from rewardmesh.panel.spec import MemberSpec
from rewardmesh.panel.voting import reaches
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import judge_service_pb2 as api


class Constraints(MembersRule):
    """All must pass."""

    methods: ClassVar[tuple[Method, ...]] = ("grade",)
    rule: Literal["constraints"]
    threshold: float = Field(0.5, ge=0, le=1, description="total at which a member passes an answer")
    thresholds: dict[str, float] = Field(default_factory=dict, description="the same for single members")
    combine: Literal["all", "min", "product"] = Field(
        "all", description="total of an answer that holds all: 1, the least of the members' totals, or their product"
    )

    def objection(self, method: Method, seats: Mapping[str, list[str]]) -> str | None:
        """A threshold of nobody, or one that is none."""
        for name, value in self.thresholds.items():
            if name not in seats["members"]:
                return f"thresholds.{name}: takes no part; members are {', '.join(seats['members'])}"
            if not 0 <= value <= 1:
                return f"thresholds.{name}: must be in [0, 1], is {value:g}"
        return None

    def answerer(self, panel: str, specs: Mapping[str, MemberSpec]) -> Answerer:
        """See the base."""
        members = self.seats(list(specs))["members"]
        return _ConstraintsAnswerer(self.combine, {name: self.thresholds.get(name, self.threshold) for name in members})


class _ConstraintsAnswerer(Answerer):
    def __init__(self, combine: str, thresholds: Mapping[str, float]) -> None:
        self._combine = combine
        self._thresholds = thresholds

    def suffices(self, up: Collection[str]) -> bool:
        return set(self._thresholds) <= set(up)

    async def grade(self, ask: Ask, samples: Sequence[pb.Sample]) -> list[api.Grades | pb.Absence]:
        answers = await at_once(self._thresholds, lambda member: ask.grade(member, samples))
        return [judge_constraints(found, self._thresholds, self._combine) for found in by_item(answers, len(samples))]


def judge_constraints(
    found: Mapping[str, api.Grades | pb.Absence], thresholds: Mapping[str, float], combine: str
) -> api.Grades | pb.Absence:
    """One grade a constraint (criterion id: the member), total 0 when one is violated.

    A constraint that nobody could check is not held: ABSTAINED, unless another is known to be violated, which decides by itself.
    """
    graded, lost = parted(found)
    violated = [name for name, grades in graded.items() if not reaches(grades.total, thresholds[name])]
    if lost and not violated:
        return abstained("a constraint could not be checked", lost)
    totals = [grades.total for grades in graded.values()]
    held = {"all": 1.0, "min": min(totals), "product": math.prod(totals)}[combine]
    return api.Grades(
        grades=[
            api.Grade(
                criterion_id=name,
                score=grades.total,
                max=1.0,
                p_yes=grades.total,
                rationale=f"{'violated' if name in violated else 'held'}: {grades.total:.4f}, at least {thresholds[name]:g} is wanted"
                + "".join(f"\n{grade.criterion_id}: {grade.rationale}" for grade in grades.grades if grade.rationale),
            )
            for name, grades in graded.items()
        ],
        total=0.0 if violated else held,
        votes=len(graded),
        unparsable_votes=sum(grades.unparsable_votes for grades in graded.values()),
    )
