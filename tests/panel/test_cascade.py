"""A cascade: what goes on and what does not, audits and drift, budgets, and members that are not there."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client import REGISTRY

from panel.conftest import Panels, Toy, Toys, answer_of, duel, text_of
from rewardmesh.client import AbsenceReason, AsyncClient, rank_group
from rewardmesh.panel.pacing import Budget, Drift, DriftWatch, Pacing
from rewardmesh.panel.rules.cascade import credit, drawn

Cascade = dict[str, Any]


@pytest.fixture
async def two(toys: Toys) -> dict[str, Toy]:
    return {name: await toys(name) for name in ("small", "large")}


async def cascade(panels: Panels, two: dict[str, Toy], name: str = "cascade", **rule: Any) -> AsyncClient:
    return await panels({key: toy.address for key, toy in two.items()}, name=name, default={"rule": "cascade", **rule})


def escalated(reason: str, panel: str) -> float:
    labels = {"panel": panel, "method": "compare", "member": "small", "reason": reason}
    return REGISTRY.get_sample_value("rewardmesh_panel_escalated_items_total", labels) or 0.0


async def test_only_the_unsure_go_on(two: dict[str, Toy], panels: Panels) -> None:
    client = await cascade(panels, two, "unsure")
    pairs = [duel("sure", small=0.9, large=0.1), duel("unsure", small=0.6, large=0.1), duel("edge", small=0.7, large=0.1)]
    found = await client.compare(pairs)
    assert [each.value for each in found] == pytest.approx([0.9, 0.1, 0.7], abs=1e-6)
    assert two["large"].items == ["unsure"]
    assert list(found[1].message.preference.rationales) == ["small: p=0.6000", "large: p=0.1000"]
    assert [each.message.provenance.tokens_read for each in found] == [10, 20, 10]
    assert escalated("unsure", "unsure") == 1
    assert REGISTRY.get_sample_value("rewardmesh_panel_kept_items_total", {"panel": "unsure", "method": "compare"}) == 2
    graded = await client.grade([answer_of("s", small=0.9, large=0.2), answer_of("t", small=0.4, large=0.2)])
    assert [each.value for each in graded] == pytest.approx([0.9, 0.2])
    # The last answer is close to both others, so both its pairs go on; the pair of the others is not asked again.
    answers = [text_of(small=1.0, large=0.0), text_of(small=0.0, large=0.4), text_of(small=0.7, large=1.0)]
    (ranked,) = await client.rank([rank_group("g", "?", answers)])
    assert ranked.order == (2, 0, 1)
    assert len(two["large"].requests[-1].pairs) == 1


async def test_orders_that_disagree_go_on(toys: Toys, panels: Panels) -> None:
    two = {"small": await toys("small", bias=0.2), "large": await toys("large")}
    client = await cascade(panels, two, "orders", min_agreement=0.7)
    (found,) = await client.compare([duel("p", small=0.75, large=0.1)])
    assert found.value == pytest.approx(0.1, abs=1e-6)
    assert escalated("orders", "orders") == 1


async def test_who_gives_no_verdict_is_passed_over(two: dict[str, Toy], panels: Panels) -> None:
    client = await cascade(panels, two, min_confidence=0)
    found = await client.compare([duel("p", small="?", large=0.2), duel("q", small="?", large="?"), duel("r", small=0.5, large=0.9)])
    assert found[0].value == pytest.approx(0.2, abs=1e-6)
    assert found[1].absence is not None
    assert (found[1].absence.reason, found[1].absence.retryable) == (AbsenceReason.ABSTAINED, True)
    assert "small: OVERLOADED: busy; large: OVERLOADED: busy" in found[1].absence.detail
    assert found[2].value == pytest.approx(0.5)


async def test_an_unsure_verdict_does_not_stand_in_for_a_lost_one(two: dict[str, Toy], panels: Panels) -> None:
    client = await cascade(panels, two)
    (found,) = await client.compare([duel("p", small=0.6, large="?")])
    assert found.absence is not None
    assert "small: p=0.6000 (large: OVERLOADED: busy)" in found.absence.detail


async def test_an_auditor_that_is_lost_takes_nothing_with_it(two: dict[str, Toy], panels: Panels) -> None:
    client = await cascade(panels, two, audit=1.0)
    found = await client.compare([duel("p", small=0.9, large="?"), duel("q", small=0.9, large=0.3)])
    assert [each.value for each in found] == pytest.approx([0.9, 0.3], abs=1e-6)


async def test_nobody_stands_in_for_a_lost_auditor(two: dict[str, Toy], toys: Toys, panels: Panels) -> None:
    three = {"small": two["small"], "middle": await toys("middle"), "large": two["large"]}
    client = await cascade(panels, three, "three", audit=1.0)
    (found,) = await client.compare([duel("p", small=0.9, middle="?", large="?")])
    assert found.value == pytest.approx(0.9, abs=1e-6)
    assert two["large"].items == []
    (doubted,) = await client.compare([duel("q", small=0.6, middle="?", large=0.2)])
    assert doubted.value == pytest.approx(0.2, abs=1e-6)


async def test_a_judge_that_drifts_is_not_trusted_until_it_recovers(two: dict[str, Toy], panels: Panels) -> None:
    drift = {"below": 0.6, "recover": 0.9, "window": 10, "least": 5}
    client = await cascade(panels, two, "drifting", audit=0.2, drift=drift)

    async def asked(start: int, large: float) -> int:
        before = len(two["large"].items)
        await client.compare([duel(f"p{i}", small=0.9 + i / 1e5, large=large) for i in range(start, start + 100)])
        return len(two["large"].items) - before

    assert 10 <= await asked(0, 0.8) <= 30  # a fifth is audited
    while (sent := await asked(100, 0.2)) < 100:
        pass
    assert sent == 100
    gauge = {"panel": "drifting", "member": "small"}
    assert (REGISTRY.get_sample_value("rewardmesh_panel_audit_agreement", gauge) or 0) < 0.6
    assert await asked(200, 0.8) == 100  # still distrusted, and watched on everything
    assert 10 <= await asked(300, 0.8) <= 30
    assert REGISTRY.get_sample_value("rewardmesh_panel_audit_agreement", gauge) == 1


async def test_the_least_sure_are_paid_for_first(two: dict[str, Toy], panels: Panels) -> None:
    pairs = [duel(f"p{i}", small=0.5 + (10 - i) / 100, large=0.05) for i in range(10)]
    keeping = await cascade(panels, two, "keeping", budget={"share": 0.3, "window": 10})
    found = await keeping.compare(pairs)
    assert [each.value for each in found[-3:]] == pytest.approx([0.05] * 3, abs=1e-6)
    assert found[0].value == pytest.approx(0.6, abs=1e-6)
    assert "small: not sent on (unsure), the budget is spent" in found[0].message.preference.rationales
    assert escalated("over_budget", "keeping") == 7
    audited = [duel("audited", small=0.95, large=0.9), *pairs]
    auditing = await cascade(panels, two, "auditing", audit=1.0, budget={"share": 0.1, "window": 10})
    await auditing.compare(audited)
    assert two["large"].requests[-1].pairs[0].id == "audited"
    assert len(two["large"].requests[-1].pairs) == 1
    abstaining = await cascade(panels, two, "abstaining", budget={"share": 0.3, "window": 10}, over_budget="abstain")
    strict = await abstaining.compare(pairs)
    assert [each.absence is None for each in strict] == [False] * 7 + [True] * 3
    assert strict[0].absence is not None
    assert "the budget is spent" in strict[0].absence.detail


def test_pacing_spends_its_share_and_no_more_than_a_window_at_once() -> None:
    pacing = Pacing(Budget(share=0.1, window=50))
    spent = []
    for number in range(1000):
        pacing.saw(1)
        if number >= 500 and pacing.spend():
            spent.append(number)
    assert spent[:5] == [500, 501, 502, 503, 504]
    assert len(spent) == pytest.approx(50 + 5, abs=1)


def test_drift_has_hysteresis_and_waits_for_enough() -> None:
    watch = DriftWatch(Drift(below=0.5, recover=0.8, window=10, least=4))
    for value, drifted in ((0, False), (0, False), (0, False), (0, True), *((1, True),) * 12):
        watch.note(value)
        if not drifted:
            assert watch.agreement is None
        if watch.agreement is not None and watch.agreement < 0.8:
            assert watch.drifted == drifted
    assert (watch.agreement, watch.drifted) == (1, False)


def test_the_audit_is_drawn_by_content() -> None:
    pairs = [duel(f"p{i}", small=0.9, large=i / 1000) for i in range(1000)]
    again = [duel("other id", small=0.9, large=i / 1000) for i in range(1000)]
    chosen = [drawn(pair, 0.1) for pair in pairs]
    assert 70 < sum(chosen) < 130
    assert [drawn(pair, 0.1) for pair in again] == chosen
    assert not any(drawn(pair, 0) for pair in pairs)
    assert all(drawn(pair, 1) for pair in pairs)


@pytest.mark.parametrize(("cheap", "dear", "expected"), [(0.9, 0.6, 1), (0.9, 0.4, 0), (0.5, 0.5, 1), (0.5, 0.9, 0.5)])
def test_credit(cheap: float, dear: float, expected: float) -> None:
    assert credit(cheap, dear) == expected
