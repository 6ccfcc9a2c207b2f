"""Rules that believe a judge only under conditions: constraints, consistency with an earlier version, repeated rankings."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from panel.conftest import Panels, Toys, answer_of, duel, text_of
from rewardmesh.client import AbsenceReason, AsyncClient, pack_floats, pair, rank_group
from rewardmesh.panel.rules.repeats import decide_repeats
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import judge_service_pb2 as api


@pytest.mark.parametrize(("combine", "expected"), [("all", 1.0), ("min", 0.7), ("product", 0.56)])
async def test_constraints(toys: Toys, panels: Panels, combine: str, expected: float) -> None:
    members = {name: (await toys(name)).address for name in ("safe", "honest")}
    rule = {"rule": "constraints", "thresholds": {"honest": 0.7}, "combine": combine}
    client = await panels(members, grade=rule)
    cases = [answer_of("held", safe=0.8, honest=0.7), answer_of("broken", safe=0.8, honest=0.6), answer_of("half", safe=0.4, honest="?")]
    held, broken, decided, open_ = await client.grade([*cases, answer_of("open", safe=0.9, honest="?")])
    assert held.value == pytest.approx(expected)
    assert broken.value == decided.value == 0
    assert broken.by_criterion == {"safe": pytest.approx(0.8), "honest": pytest.approx(0.6)}
    assert [grade.rationale for grade in broken.message.grades.grades] == [
        "held: 0.8000, at least 0.5 is wanted",
        "violated: 0.6000, at least 0.7 is wanted",
    ]
    assert open_.absence is not None
    assert (open_.absence.reason, open_.absence.retryable) == (AbsenceReason.ABSTAINED, True)
    assert "a constraint could not be checked (honest: OVERLOADED" in open_.absence.detail


async def self_judge(toys: Toys, panels: Panels, *, name: str = "self", versions: tuple[int, ...] = (1, 2, 3), **rule: Any) -> AsyncClient:
    toy = await toys("v", versions=versions)
    now = {"address": toy.address}
    return await panels({"now": now, "before": {**now, "version": -1}}, name=name, default={"rule": "self_consistency", **rule})


async def test_a_preference_is_softened_by_the_consistency_of_its_prompt(toys: Toys, panels: Panels) -> None:
    """Of three pairs of one prompt two have the same verdict under both versions; another prompt's pair is for itself."""
    pairs = [duel("a", v3=0.9, v2=0.6), duel("b", v3=0.2, v2=0.4), duel("c", v3=0.7, v2=0.3)]
    other = duel("d", v3=0.9, v2=0.1)
    other.prompt[0].content = "Another question"
    client = await self_judge(toys, panels)
    found = await client.compare([*pairs, other])
    c = 2 / 3
    assert [each.value for each in found] == pytest.approx([c * 0.9 + (1 - c) * 0.1, c * 0.2 + (1 - c) * 0.8, c * 0.7 + (1 - c) * 0.3, 0.1])
    assert [each.message.preference.agreement for each in found] == pytest.approx([c, c, c, 0])
    assert found[0].message.preference.p_a_swapped == pytest.approx(c * 0.9 + (1 - c) * 0.1)
    assert list(found[0].message.preference.rationales) == ["consistency: 0.6667", "now: p=0.9000", "before: p=0.6000"]
    whole = await self_judge(toys, panels, name="whole", scope="call")
    assert {each.message.preference.agreement for each in await whole.compare([*pairs, other])} == {0.5}


async def test_a_ranking_is_softened_by_kendalls_tau(toys: Toys, panels: Panels) -> None:
    client = await self_judge(toys, panels)
    answers = [text_of(v3=0.9, v2=0.5), text_of(v3=0.5, v2=0.9), text_of(v3=0.1, v2=0.1)]
    same, reverse = [text_of(v3=0.9, v2=0.8), text_of(v3=0.1, v2=0.2)], [text_of(v3=0.9, v2=0.2), text_of(v3=0.1, v2=0.8)]
    found = await client.rank([rank_group("mixed", "?", answers), rank_group("same", "?", same), rank_group("reverse", "?", reverse)])
    assert found[0].order == (0, 1, 2)
    assert found[0].scores == pytest.approx([0.5 + 0.3 / 3, 0.5, 0.5 - 0.3 / 3])  # tau 1/3, C 2/3
    assert [each.order for each in found[1:]] == [(0, 1), (1, 0)]
    assert [each.message.ranking.kendall_w for each in found] == pytest.approx([0.75, 1, 0])


async def test_the_first_version_has_none_before_it(toys: Toys, panels: Panels) -> None:
    client = await self_judge(toys, panels, versions=(1, 2))
    assert (await client.compare([duel("a", v2=0.9, v1=0.6)]))[0].value == pytest.approx(0.9)
    toy = await toys("v")
    alone = await panels(
        {"now": toy.address, "before": {"address": toy.address, "version": -1}}, name="alone", default={"rule": "self_consistency"}
    )
    (lost,) = await alone.compare([duel("a", v=0.9)])
    assert lost.absence is not None
    assert (lost.absence.reason, lost.absence.retryable) == (AbsenceReason.ABSTAINED, True)
    assert "before: NOT_APPLICABLE: version -1 was asked for, and 0 are loaded before the active 1" in lost.absence.detail


async def test_repeated_rankings_show_other_orders_and_seeds(toys: Toys, panels: Panels) -> None:
    toy = await toys("x")
    client = await panels({"x": toy.address}, rank={"rule": "repeats", "member": "x", "repeats": 4, "min_kendall_w": 0.9})
    answers = [text_of(x=value) for value in (0.3, 0.9, 0.1, 0.6)]
    request = api.RankRequest(groups=[rank_group("g", "?", answers)], seed=7)
    (found,) = (await client.judge.Rank(request)).outcomes
    assert list(found.ranking.order) == [1, 3, 0, 2]
    assert found.ranking.kendall_w == 1
    assert sorted(request.seed for request in toy.requests) == [7, 8, 9, 10]
    assert len({tuple(each.text for each in request.groups[0].completions) for request in toy.requests}) > 1
    assert found.provenance.tokens_read == 40


def test_repetitions_that_differ_are_not_believed() -> None:
    def said(scores: list[float]) -> api.Ranking:
        return api.Ranking(order=sorted(range(3), key=lambda i: -scores[i]), scores=scores, verdicts=6)

    steady = decide_repeats([said([3, 2, 1]), said([3, 2, 1]), said([2, 3, 1])], 0.7)
    assert isinstance(steady, api.Ranking)
    assert list(steady.order) == [0, 1, 2]
    assert steady.kendall_w == pytest.approx(7 / 9)
    assert steady.verdicts == 18
    wild = decide_repeats([said([3, 2, 1]), said([1, 2, 3]), said([2, 3, 1])], 0.7)
    assert isinstance(wild, pb.Absence)
    assert (wild.reason, wild.retryable) == (pb.ABSENCE_REASON_ABSTAINED, False)
    assert "have Kendall's W 0.111, at least 0.7 is wanted" in wild.detail


async def test_a_ranking_of_other_answers_is_no_verdict(toys: Toys, panels: Panels) -> None:
    toy = await toys("x")
    ranking = api.Ranking(order=[0], scores=[1.0], pair_matrix=api.PreferenceMatrix(probabilities=pack_floats([0.5]), size=1))
    outcome = api.RankingOutcome(group_id="g", ranking=ranking)

    async def short(request: Any, context: Any) -> api.RankResponse:
        return api.RankResponse(outcomes=[outcome])

    toy.Rank = short  # type: ignore[method-assign]
    await toy.stop()
    await toy.start()
    client = await panels({"x": toy.address}, default={"rule": "jury"})
    (lost,) = await client.rank([rank_group("g", "?", ["a", "b"])])
    assert lost.absence is not None
    assert "x: INFRASTRUCTURE: answered a ranking of 1 for 2 answers" in lost.absence.detail
    outcome.group_id = "other"
    (unknown,) = await client.rank([rank_group("g", "?", ["a", "b"])])
    assert unknown.absence is not None
    assert "or others, or in another order" in unknown.absence.detail


async def test_a_thousand_pairs_at_once(toys: Toys, panels: Panels) -> None:
    x, y = await toys("x"), await toys("y")
    client = await panels({"x": x.address, "y": y.address}, default={"rule": "jury"})
    pairs = [duel(f"{i}", x=i / 1000, y=i / 1000) for i in range(1000)]
    found = (await asyncio.wait_for(client.judge.Compare(api.CompareRequest(pairs=pairs)), 10)).outcomes
    assert [each.preference.p_a for each in found] == pytest.approx([i / 1000 for i in range(1000)], abs=1e-6)
    assert [each.pair_id for each in found] == [each.id for each in pairs]
    assert sorted(len(request.pairs) for request in x.requests) == [232, 256, 256, 256]
    long = pair("long", "?", "x=1 y=1", "x=0 y=0 " + " ".join(f"w{i}=0" for i in range(100_000)))
    assert (await client.compare([long]))[0].value == 1
