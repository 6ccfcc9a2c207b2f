"""`jury`: members judge for themselves, and their verdicts are put to a vote.

    default: {rule: jury, vote: mean, quorum: 2}
    rank: {rule: jury, vote: copeland}

Votes of a jury of language models: Verga et al. 2024 (arXiv 2404.18796). Departures: probabilities are pooled rather than words, the
share of a divided jury is the verdict's probability, and a member without a verdict has no vote instead of a neutral one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import ClassVar, Literal, TypeVar

from pydantic import Field

from rewardmesh.panel.absences import abstained, majority_of, too_few
from rewardmesh.panel.asking import Ask, at_once, by_item, parted
from rewardmesh.panel.rankings import Aggregation, aggregated, borda, majority, matrix_of, mean_matrix, ranking
from rewardmesh.panel.rules.base import Answerer, MembersRule, Method
from rewardmesh.panel.spec import MemberSpec
from rewardmesh.panel.voting import mean, median, pool_grades, pool_preferences, reaches, share_for, side
from rewardmesh.serving.errors import invalid_argument
from rewardmesh.serving.rankings import beaten, kendall_w
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import judge_service_pb2 as api

Vote = Literal["mean", "median", "majority", "unanimity", "approval", "borda", "copeland"]
V = TypeVar("V", api.Preference, api.Ranking, api.Grades)
Weights = Mapping[str, float]

_NOT_OF_ORDERS = (api.RANK_AGGREGATION_BRADLEY_TERRY, api.RANK_AGGREGATION_ELO)

VOTES: Mapping[Method, tuple[Vote, ...]] = {
    "compare": ("mean", "median", "majority", "unanimity"),
    "rank": ("mean", "borda", "copeland", "unanimity"),
    "grade": ("mean", "median", "approval", "unanimity"),
    "critique": (),
}


class Jury(MembersRule):
    """Members judge for themselves; a vote decides."""

    methods: ClassVar[tuple[Method, ...]] = ("compare", "rank", "grade")
    rule: Literal["jury"]
    vote: Vote = Field("mean", description="how verdicts become one")
    quorum: int | None = Field(None, ge=1, description="members that must give a verdict, else the panel abstains; unset: more than half")
    threshold: float = Field(0.5, ge=0, le=1, description="grade: a total at or above it approves")

    def objection(self, method: Method, seats: Mapping[str, list[str]]) -> str | None:
        """A vote that the method does not know, or a quorum that can never be met."""
        if self.vote not in VOTES[method]:
            return f"vote: {self.vote!r} is no vote of {method}; one of {', '.join(VOTES[method])}"
        if self.quorum is not None and self.quorum > len(seats["members"]):
            return f"quorum: {self.quorum} members can never answer, {len(seats['members'])} take part"
        return None

    def answerer(self, panel: str, specs: Mapping[str, MemberSpec]) -> Answerer:
        """See the base."""
        return _JuryAnswerer(self, {name: specs[name].weight for name in self.seats(list(specs))["members"]})


class _JuryAnswerer(Answerer):
    def __init__(self, rule: Jury, weights: Weights) -> None:
        self._rule = rule
        self._weights = weights
        self._quorum = rule.quorum or majority_of(len(weights))

    def suffices(self, up: Collection[str]) -> bool:
        return len(set(self._weights) & set(up)) >= self._quorum

    async def compare(self, ask: Ask, pairs: Sequence[api.Pair]) -> list[api.Preference | pb.Absence]:
        answers = await at_once(self._weights, lambda member: ask.compare(member, pairs))
        return [self._decide(found, decide_pair) for found in by_item(answers, len(pairs))]

    async def rank(self, ask: Ask, groups: Sequence[api.RankGroup]) -> list[api.Ranking | pb.Absence]:
        if self._rule.vote in ("borda", "copeland") and ask.aggregation in _NOT_OF_ORDERS:
            raise invalid_argument(
                "aggregation", f"vote {self._rule.vote!r} scores in [0, 1] by orders alone: leave it unset, or give the panel vote: mean"
            )
        answers = await at_once(self._weights, lambda member: ask.rank(member, groups))
        decide = partial(decide_ranking, aggregation=ask.aggregation)
        return [self._decide(found, decide) for found in by_item(answers, len(groups))]

    async def grade(self, ask: Ask, samples: Sequence[pb.Sample]) -> list[api.Grades | pb.Absence]:
        answers = await at_once(self._weights, lambda member: ask.grade(member, samples))
        return [self._decide(found, decide_grades) for found in by_item(answers, len(samples))]

    def _decide(
        self, found: Mapping[str, V | pb.Absence], decide: Callable[[Jury, dict[str, V], Weights], V | pb.Absence]
    ) -> V | pb.Absence:
        verdicts, lost = parted(found)
        return too_few(len(verdicts), len(self._weights), self._quorum, lost) or decide(self._rule, verdicts, self._weights)


def decide_pair(rule: Jury, found: dict[str, api.Preference], weights: Weights) -> api.Preference | pb.Absence:
    """The jury's preference from those of at least one member. Unanimity: the mean, unless members are on two sides."""
    if rule.vote == "unanimity" and len({side(verdict.p_a) for verdict in found.values()}) > 1:
        return _divided({name: f"p={verdict.p_a:.2f}" for name, verdict in found.items()})
    return pool_preferences(found, weights, {"median": median, "majority": share_for}.get(rule.vote, mean))


def decide_grades(rule: Jury, found: dict[str, api.Grades], weights: Weights) -> api.Grades | pb.Absence:
    """The jury's grades from those of at least one member. Approval: the share of the weight that approves."""
    if rule.vote == "unanimity" and len({reaches(verdict.total, rule.threshold) for verdict in found.values()}) > 1:
        return _divided({name: f"{verdict.total:.2f}" for name, verdict in found.items()})
    pool = median if rule.vote == "median" else mean
    return pool_grades(found, weights, pool, threshold=rule.threshold, approve=rule.vote == "approval")


def decide_ranking(
    rule: Jury, found: dict[str, api.Ranking], weights: Weights, aggregation: Aggregation = api.RANK_AGGREGATION_UNSPECIFIED
) -> api.Ranking | pb.Absence:
    """The jury's ranking from those of at least one member.

    mean: the members' pairwise probabilities, averaged, then scored as the caller asks. borda, copeland: from the members' orders alone.
    unanimity: the mean, unless orders differ. Kendall's W is that of the members (of one alone: its own).
    """
    if rule.vote == "unanimity" and len({tuple(verdict.order) for verdict in found.values()}) > 1:
        return _divided({name: " > ".join(map(str, verdict.order)) for name, verdict in found.items()})
    shares = [weights[name] for name in found]
    scores = [list(verdict.scores) for verdict in found.values()]
    concordance = kendall_w(scores) if len(scores) > 1 else next(iter(found.values())).kendall_w
    verdicts = sum(verdict.verdicts for verdict in found.values())
    if rule.vote in ("borda", "copeland"):
        duels = majority(scores, shares)
        points = borda(scores, shares) if rule.vote == "borda" else beaten(duels)
        return ranking(points, duels, concordance=concordance, verdicts=verdicts)
    matrix = mean_matrix([matrix_of(verdict) for verdict in found.values()], shares)
    return aggregated(matrix, aggregation, concordance=concordance, verdicts=verdicts)


def _divided(said: Mapping[str, str]) -> pb.Absence:
    return abstained("the members are divided: " + ", ".join(f"{name} {what}" for name, what in said.items()), {})
