"""What verdicts cost, and tenants that have spent their budget."""

from __future__ import annotations

import pytest

from judge.conftest import Serve
from judge.endpoint import Endpoint, judging
from rewardmesh.client import AbsenceReason, pair, sample
from rewardmesh.v1 import common_pb2 as pb

PRICES = {"read_per_million_tokens": 1.0, "written_per_million_tokens": 100.0}
PAIR = pair("p", "q", "19", "20")


async def test_readings_cost_what_is_read_and_a_token_each(serve: Serve) -> None:
    async with serve(prices=PRICES) as client:
        [first] = await client.compare([PAIR])
        [again] = await client.compare([PAIR])
    provenance = first.message.provenance
    assert provenance.cost_usd == pytest.approx((provenance.tokens_read + 2 * 100) / 1e6)
    assert provenance.tokens_written == 0
    assert again.message.provenance.HasField("cost_usd")
    assert again.message.provenance.cost_usd == 0


async def test_without_prices_there_is_no_cost(serve: Serve) -> None:
    async with serve() as client:
        [result] = await client.compare([PAIR])
    assert not result.message.provenance.HasField("cost_usd")


async def test_texts_cost_what_the_endpoint_counts() -> None:
    endpoint = Endpoint(lambda text: {"Yes": 0.5, "No": 0.5}, lambda text, index: f"because {index}")
    context = pb.Context(criteria=[pb.Criterion(id="kind", text="Is it kind?")])
    async with judging(endpoint, prices=PRICES) as client:
        [result] = await client.grade([sample("s", "q", "19", context=context)], rubric="grade-reasoned", votes=2)
    provenance = result.message.provenance
    # The endpoint counts 5 tokens written for both texts together; each of two readings writes one.
    assert provenance.tokens_written == 5
    assert provenance.cost_usd > (5 + 2) * 100 / 1e6


async def test_readings_of_an_endpoint_cost_what_it_counts() -> None:
    endpoint = Endpoint(lambda text: {"A": 0.5, "B": 0.5}, lambda text, index: "")
    async with judging(endpoint, prices=PRICES) as client:
        [result] = await client.compare([PAIR])
    # It counts 10 tokens read for each of the two orders.
    assert result.message.provenance.cost_usd == pytest.approx((2 * 10 + 2 * 100) / 1e6)


async def test_a_spent_budget_refuses_before_anything_is_computed() -> None:
    endpoint = Endpoint(lambda text: {"A": 0.5, "B": 0.5}, lambda text, index: "because")
    async with judging(endpoint, prices=PRICES, budgets={"poor": 0.01, "other": 1000.0}) as client:
        poor = {"x-tenant": "poor"}
        [cheap] = await client.compare([PAIR], metadata=poor)
        assert cheap.value is not None
        asked = len(endpoint.asked)
        # 64 votes of up to 512 tokens, in two orders.
        [refused] = await client.compare([PAIR], template="compare-reasoned", votes=64, metadata=poor)
        assert refused.absence is not None
        assert refused.absence.reason == AbsenceReason.OVERLOADED
        assert "budget of tenant 'poor'" in refused.absence.detail
        assert (len(endpoint.asked), endpoint.written_on) == (asked, [])
        [rich] = await client.compare([PAIR], template="compare-reasoned", votes=4)
        assert rich.value is not None
