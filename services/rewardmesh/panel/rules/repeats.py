"""`repeats`: a judge ranks the same answers several times, and is believed only where it says the same.

    rank: {rule: repeats, member: large, repeats: 5, min_kendall_w: 0.8}

Every repetition shows the answers in another order and has a seed of its own. Where Kendall's W of the repetitions is below the threshold
the panel abstains, so that such prompts are not trained on; else the ranking is the mean of all. Devine 2024 (arXiv 2405.18952).
"""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar, Literal

from pydantic import Field

from rewardmesh.panel.absences import abstained, majority_of, too_few
from rewardmesh.panel.asking import Ask, at_once, by_item, parted
from rewardmesh.panel.rankings import Aggregation, aggregated, matrix_of, mean_matrix, reordered
from rewardmesh.panel.rules.base import Answerer, Method, Rule
from rewardmesh.panel.spec import MemberSpec
from rewardmesh.serving.rankings import kendall_w
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import judge_service_pb2 as api


class Repeats(Rule):
    """One judge, asked again and again."""

    methods: ClassVar[tuple[Method, ...]] = ("rank",)
    rule: Literal["repeats"]
    member: str = Field(description="who ranks")
    repeats: int = Field(5, ge=2, le=100, description="how often")
    min_kendall_w: float = Field(0.8, ge=0, le=1, description="Kendall's W of the repetitions below which the panel abstains")

    def seats(self, everyone: Sequence[str]) -> dict[str, list[str]]:
        """See the base."""
        return {"member": [self.member]}

    def answerer(self, panel: str, specs: Mapping[str, MemberSpec]) -> Answerer:
        """See the base."""
        return _RepeatsAnswerer(self)


class _RepeatsAnswerer(Answerer):
    def __init__(self, rule: Repeats) -> None:
        self._rule = rule

    def suffices(self, up: Collection[str]) -> bool:
        return self._rule.member in up

    async def rank(self, ask: Ask, groups: Sequence[api.RankGroup]) -> list[api.Ranking | pb.Absence]:
        names = [f"repetition {number + 1}" for number in range(self._rule.repeats)]
        found = await at_once(names, lambda name: self._once(ask, groups, names.index(name)))
        return [self._decide(parted(answers), ask.aggregation) for answers in by_item(found, len(groups))]

    async def _once(self, ask: Ask, groups: Sequence[api.RankGroup], number: int) -> list[api.Ranking | pb.Absence]:
        shown = [_order(len(group.completions), ask.options.seed + number) for group in groups]
        turned = [_turned(group, order) for group, order in zip(groups, shown, strict=True)]
        found = await ask.rank(self._rule.member, turned, seed=ask.options.seed + number)
        return [answer if isinstance(answer, pb.Absence) else reordered(answer, order) for answer, order in zip(found, shown, strict=True)]

    def _decide(self, answers: tuple[dict[str, api.Ranking], dict[str, pb.Absence]], aggregation: Aggregation) -> api.Ranking | pb.Absence:
        found, lost = answers
        # A filter by agreement needs repetitions that can disagree: more than half of those asked for, and never one alone.
        few = too_few(len(found), self._rule.repeats, max(majority_of(self._rule.repeats), 2), lost)
        return few or decide_repeats(list(found.values()), self._rule.min_kendall_w, aggregation)


def decide_repeats(
    found: Sequence[api.Ranking], min_kendall_w: float, aggregation: Aggregation = api.RANK_AGGREGATION_UNSPECIFIED
) -> api.Ranking | pb.Absence:
    """The mean of rankings of the same answers, or ABSTAINED when they concord too little."""
    concordance = kendall_w([list(each.scores) for each in found])
    if concordance < min_kendall_w:
        return abstained(f"{len(found)} repetitions have Kendall's W {concordance:.3f}, at least {min_kendall_w:g} is wanted", {})
    matrix = mean_matrix([matrix_of(each) for each in found], [1.0] * len(found))
    return aggregated(matrix, aggregation, concordance=concordance, verdicts=sum(each.verdicts for each in found))


def _order(size: int, seed: int) -> list[int]:
    return random.Random(seed).sample(range(size), size)


def _turned(group: api.RankGroup, order: Sequence[int]) -> api.RankGroup:
    turned = api.RankGroup()
    turned.CopyFrom(group)
    del turned.completions[:]
    turned.completions.extend(group.completions[place] for place in order)
    return turned
