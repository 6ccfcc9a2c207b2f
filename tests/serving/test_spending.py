"""Budgets: what is spent, what is reserved, who is charged, and when there is room again."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from prometheus_client import REGISTRY
from pydantic import ValidationError

from rewardmesh.engine.config import MeteredServerConfig
from rewardmesh.serving.errors import CallError
from rewardmesh.serving.spending import Ledger, Prices

PRICES = Prices(read_per_million_tokens=1.0, written_per_million_tokens=4.0)
DAY_S = 86400.0


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def books(clock: Clock | None = None, **budgets: float) -> Ledger:
    return Ledger(PRICES, budgets, DAY_S, service="test", clock=clock or Clock())


def refused(ledger: Ledger, tenant: str, **most: int) -> CallError:
    with pytest.raises(CallError) as error:
        ledger.reserve(tenant, **most)
    assert error.value.code == grpc.StatusCode.RESOURCE_EXHAUSTED
    return error.value


def metric(name: str, tenant: str) -> float:
    return REGISTRY.get_sample_value(name, {"service": "test", "model": "m", "tenant": tenant}) or 0.0


def test_what_is_charged_is_counted_for_its_tenant() -> None:
    ledger = books(ann=1.0)
    before = [metric("rewardmesh_cost_usd_total", name) for name in ("ann", "other")]
    written = metric("rewardmesh_tokens_written_total", "other")
    with ledger.reserve("ann", tokens_read=1000, tokens_written=1000) as bill:
        assert bill.charge("m", tokens_read=1000, tokens_written=500) == pytest.approx(0.003)
    with ledger.reserve("stranger") as bill:
        assert bill.charge("m", tokens_read=0, tokens_written=250) == pytest.approx(0.001)
    assert ledger.spent("ann") == pytest.approx(0.003)
    assert ledger.spent("stranger") == 0.0
    after = [metric("rewardmesh_cost_usd_total", name) for name in ("ann", "other")]
    assert [b - a for a, b in zip(before, after, strict=True)] == pytest.approx([0.003, 0.001])
    assert metric("rewardmesh_tokens_written_total", "other") - written == 250


def test_a_used_up_budget_says_when_it_frees() -> None:
    clock = Clock()
    ledger = books(clock, ann=0.01)
    with ledger.reserve("ann") as bill:
        bill.charge("m", tokens_read=6000, tokens_written=0)
    clock.now += DAY_S / 2
    with ledger.reserve("ann") as bill:
        bill.charge("m", tokens_read=5000, tokens_written=0)  # more than is left: it is spent all the same
    assert refused(ledger, "ann").retry_after_s == pytest.approx(DAY_S / 2, rel=0.02)
    ledger.reserve("bob", tokens_read=10**9).close()
    clock.now += DAY_S / 2 + DAY_S / 100
    assert ledger.spent("ann") == pytest.approx(0.005)
    ledger.reserve("ann", tokens_read=5000).close()
    late = refused(ledger, "ann", tokens_read=5001)
    assert late.retry_after_s == pytest.approx(DAY_S / 2, rel=0.02)
    assert "$0.01" in late.message
    never = refused(ledger, "ann", tokens_read=10001)
    assert never.retry_after_s is None, "waiting does not help"
    assert "raise budgets" in never.message


def test_calls_side_by_side_cannot_spend_the_same_dollar() -> None:
    ledger = books(ann=0.01)
    first = ledger.reserve("ann", tokens_read=8000)
    assert refused(ledger, "ann", tokens_read=3000).retry_after_s == 1.0, "it may be given back at any time"
    first.charge("m", tokens_read=2000, tokens_written=0)
    first.close()
    first.close()
    assert ledger.spent("ann") == pytest.approx(0.002)
    ledger.reserve("ann", tokens_read=8000).close()
    entered = threading.Barrier(8)

    def spend() -> bool:
        entered.wait()
        try:
            with ledger.reserve("ann", tokens_read=1000) as bill:
                bill.charge("m", tokens_read=1000, tokens_written=0)
        except CallError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        for _ in range(2):
            results = [pool.submit(spend) for _ in range(8)]
            [result.result() for result in results]
    assert ledger.spent("ann") <= 0.01 + 1e-12


def test_unnamed_tenants_share_one_budget() -> None:
    ledger = books(other=0.001, ann=1.0)
    ledger.reserve("bob", tokens_read=1000).charge("m", tokens_read=1000, tokens_written=0)
    assert "'carl'" not in refused(ledger, "carl", tokens_read=1).message
    ledger.reserve("ann", tokens_read=1000).close()
    assert refused(books(other=0.0), "").retry_after_s is None


def test_without_prices_nothing_is_charged() -> None:
    ledger = Ledger(None, {}, DAY_S, service="test")
    with ledger.reserve("ann", tokens_read=10**12) as bill:
        assert bill.charge("m", tokens_read=5, tokens_written=5) is None
    assert ledger.price(1, 1) is None
    assert books().price(0, 0) == 0.0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"budgets": {"ann": 1.0}}, "set prices"),
        ({"prices": {"read_per_million_tokens": -1, "written_per_million_tokens": 1}}, "greater than or equal"),
        ({"prices": {"read_per_million_tokens": 1}}, "written_per_million_tokens"),
        ({"prices": PRICES, "budgets": {"ann": -1}}, "greater than or equal"),
        ({"prices": PRICES, "budget_window_seconds": 0}, "greater than 0"),
    ],
)
def test_mistakes_in_the_configuration(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        MeteredServerConfig(model="m", **fields)
    good = MeteredServerConfig(model="m", prices=PRICES, budgets={"ann": 1.0})
    assert good.ledger("test").price(10**6, 10**6) == 5.0
