"""`self_consistency`: the policy judges itself, and is believed as far as an earlier version of it says the same.

    members:
      now: {address: "127.0.0.1:50061", model: policy}
      before: {address: "127.0.0.1:50061", model: policy, version: -1}
    default: {rule: self_consistency, members: [now, before]}

With the consistency C = (tau + 1) / 2 of both orders (Kendall's tau) the preference p of the current version becomes C p + (1 - C)(1 - p):
unchanged where the two agree, 0.5 where they are unrelated. CREAM: Wang et al. 2024 (arXiv 2410.12735), which softens the labels of
self-rewarding training (Yuan et al. 2024, arXiv 2401.10020) with C averaged over all prompts (`scope: call`). Departure: by default C is
that of a prompt's own answers, so that a verdict does not depend on what else was asked.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from statistics import fmean
from typing import ClassVar, Literal

from pydantic import Field

from rewardmesh.panel.absences import too_few
from rewardmesh.panel.asking import Ask, at_once, by_item, parted
from rewardmesh.panel.rankings import Aggregation, aggregated, kendall_tau, matrix_of
from rewardmesh.panel.rules.base import Answerer, MembersRule, Method
from rewardmesh.panel.spec import MemberSpec
from rewardmesh.panel.voting import agreement, said, side
from rewardmesh.serving.rankings import kendall_w
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import judge_service_pb2 as api


class SelfConsistency(MembersRule):
    """Two versions of one judge."""

    methods: ClassVar[tuple[Method, ...]] = ("compare", "rank")
    rule: Literal["self_consistency"]
    scope: Literal["prompt", "call"] = Field("prompt", description="over what C is taken: the answers of one prompt, or the whole call")

    def objection(self, method: Method, seats: Mapping[str, list[str]]) -> str | None:
        """More or fewer than two."""
        if len(seats["members"]) != 2:
            return f"members: must be two, the current version and an earlier one; there are {len(seats['members'])}"
        return None

    def answerer(self, panel: str, specs: Mapping[str, MemberSpec]) -> Answerer:
        """See the base."""
        now, before = self.seats(list(specs))["members"]
        return _SelfConsistencyAnswerer(now, before, self.scope)


class _SelfConsistencyAnswerer(Answerer):
    def __init__(self, now: str, before: str, scope: str) -> None:
        self._now = now
        self._before = before
        self._scope = scope

    def suffices(self, up: Collection[str]) -> bool:
        return {self._now, self._before} <= set(up)

    async def compare(self, ask: Ask, pairs: Sequence[api.Pair]) -> list[api.Preference | pb.Absence]:
        answers = await at_once((self._now, self._before), lambda member: ask.compare(member, pairs))
        judged = [parted(found) for found in by_item(answers, len(pairs))]
        concords: dict[bytes, list[float]] = {}
        scopes = [self._scope_of(pair) for pair in pairs]
        for scope, (found, lost) in zip(scopes, judged, strict=True):
            if not lost:
                concords.setdefault(scope, []).append(concord(found[self._now].p_a, found[self._before].p_a))
        return [
            too_few(len(found), 2, 2, lost) or soften(found, self._now, fmean(concords[scope]))
            for scope, (found, lost) in zip(scopes, judged, strict=True)
        ]

    async def rank(self, ask: Ask, groups: Sequence[api.RankGroup]) -> list[api.Ranking | pb.Absence]:
        answers = await at_once((self._now, self._before), lambda member: ask.rank(member, groups))
        judged = [parted(found) for found in by_item(answers, len(groups))]
        own = [None if lost else consistency(found[self._now], found[self._before]) for found, lost in judged]
        whole = fmean(c for c in own if c is not None) if any(c is not None for c in own) else 0.0
        return [
            too_few(len(found), 2, 2, lost)
            or soften_ranking(found[self._now], found[self._before], whole if self._scope == "call" else consistent or 0.0, ask.aggregation)
            for (found, lost), consistent in zip(judged, own, strict=True)
        ]

    def _scope_of(self, pair: api.Pair) -> bytes:
        return b"" if self._scope == "call" else b"\0".join(message.SerializeToString(deterministic=True) for message in pair.prompt)


def concord(now: float, before: float) -> float:
    """A pair's part in C: 1 when both prefer the same answer, 0 when different ones, a half when either is at a tie."""
    return 0.5 + side(now) * side(before) / 2


def consistency(now: api.Ranking, before: api.Ranking) -> float:
    """C = (tau + 1) / 2 in [0, 1] of two rankings of the same answers."""
    return (kendall_tau(now.scores, before.scores) + 1) / 2


def softened(p: float, c: float) -> float:
    """C p + (1 - C)(1 - p)."""
    return c * p + (1 - c) * (1 - p)


def soften(found: Mapping[str, api.Preference], now: str, c: float) -> api.Preference:
    """The current version's preference, softened in either order; `agreement` is C."""
    result = api.Preference()
    result.CopyFrom(found[now])
    result.p_a = softened(result.p_a, c)
    result.p_a_as_given = softened(result.p_a_as_given, c)
    if result.HasField("p_a_swapped"):
        result.p_a_swapped = softened(result.p_a_swapped, c)
    result.agreement = c
    result.votes = len(found)
    result.vote_agreement = agreement([each.p_a for each in found.values()], [1.0] * len(found))
    result.rationales[:] = [f"consistency: {c:.4f}", *(line for name, preference in found.items() for line in said(name, preference))]
    return result


def soften_ranking(
    now: api.Ranking, before: api.Ranking, c: float, aggregation: Aggregation = api.RANK_AGGREGATION_UNSPECIFIED
) -> api.Ranking:
    """The current version's pairwise probabilities, softened, and the order they give; Kendall's W is that of the two versions."""
    matrix = matrix_of(now)
    softened_matrix = c * matrix + (1 - c) * (1 - matrix)
    concordance = kendall_w([list(now.scores), list(before.scores)])
    return aggregated(softened_matrix, aggregation, concordance=concordance, verdicts=now.verdicts + before.verdicts)
