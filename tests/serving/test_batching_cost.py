"""What the batcher expects of time, and whom it refuses because of it."""

from __future__ import annotations

import math
import random

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewardmesh.serving.batching import Ticket, Work
from rewardmesh.serving.batching.admission import OVERFLOW, TENANT_RESERVE, Admission
from rewardmesh.serving.batching.cost import CostModel
from rewardmesh.serving.batching.queue import Queue


def learnt(overhead_s: float, per_token_s: float, sizes: tuple[int, ...] = (100, 400, 1600, 800), noise: float = 0.0) -> CostModel:
    costs, rng = CostModel(), random.Random(0)
    for tokens in sizes * 20:
        costs.observe(tokens, (overhead_s + per_token_s * tokens) * (1 + rng.uniform(-noise, noise)))
    return costs


def test_nothing_is_expected_before_the_first_batch() -> None:
    costs = CostModel()
    assert costs.seconds(1000) == 0
    assert costs.tokens_within(0.001) == math.inf
    assert costs.tokens_safely_within(0.001) == math.inf
    assert costs.efficient_tokens == 0


def test_overhead_and_rate_are_told_apart() -> None:
    costs = learnt(0.01, 1e-4)
    for tokens in (50, 500, 5000):
        assert costs.seconds(tokens) == pytest.approx(0.01 + 1e-4 * tokens, rel=0.1)
    assert costs.tokens_within(costs.seconds(700)) == pytest.approx(700)
    assert costs.tokens_safely_within(0.1) < costs.tokens_within(0.1)
    assert 100 < costs.efficient_tokens < 500


def test_batches_of_one_size_are_taken_for_all_rate() -> None:
    costs = learnt(0.01, 1e-4, sizes=(1000,), noise=0.2)
    assert costs.seconds(1000) == pytest.approx(0.11, rel=0.1)
    assert costs.seconds(4000) == pytest.approx(0.44, rel=0.15)


def test_one_stall_is_an_accident_and_two_are_news() -> None:
    costs = learnt(0.01, 1e-4)
    before = costs.seconds(500)
    costs.observe(500, 20 * before)
    assert costs.seconds(500) < 1.3 * before
    costs.observe(500, 20 * before)
    assert costs.seconds(500) > 4 * before
    costs.observe(500, before)
    costs.observe(500, before)
    assert costs.seconds(500) < 1.5 * before, "good news is believed at once"


@given(st.lists(st.tuples(st.integers(0, 100_000), st.floats(0, 100)), min_size=1, max_size=50))
def test_whatever_batches_took_expectations_make_sense(batches: list[tuple[int, float]]) -> None:
    costs = CostModel()
    for tokens, seconds in batches:
        costs.observe(tokens, seconds)
        assert 0 < costs.seconds(1) <= costs.seconds(1000) < math.inf
        assert costs.deviation_s >= 0
        assert costs.safe_seconds(costs.seconds(1000)) > costs.seconds(1000)


class Door:
    """Admission in front of a queue, with a worker that takes 1 ms a token."""

    def __init__(self, *, limit: int = 10_000, workers: int = 1, weights: dict[str, float] | None = None) -> None:
        self.queue: Queue[None] = Queue(weights or {})
        self.admission = Admission(self.queue, learnt(0.0, 1e-3), limit_tokens=limit, budget_tokens=1000, workers=workers)

    def wait(self, tokens: int, *, priority: int = 1, tenant: str = "", deadline: float = math.inf) -> None:
        self.queue.push([Ticket(Work(None, "v1", object(), tokens), 0.0, lambda done: None)], priority, tenant, deadline)

    def refuses(self, tokens: int, timeout_s: float | None = None, *, priority: int = 1, tenant: str = "", now: float = 0.0) -> str:
        refusal = self.admission.refusal([Work(None, "v1", 0, tokens)], priority, timeout_s, tenant, now)
        if refusal is None:
            return ""
        reason, error = refusal
        assert error.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert error.retry_after_s is not None
        assert error.retry_after_s > 0
        return reason


def test_a_call_is_refused_when_its_answer_would_be_late() -> None:
    door = Door()
    door.wait(1000, deadline=100.0)
    assert not door.refuses(100, 2.0)
    assert door.refuses(100, 1.2) == "deadline", "1.1 s are expected, with headroom 1.6"
    assert not door.refuses(100), "no deadline, no hurry"
    assert not door.refuses(100, -1.0), "is expired anyway, and answered so"


def test_only_what_is_computed_before_counts() -> None:
    door = Door()
    door.wait(2000, priority=2)
    door.wait(2000)
    assert not door.refuses(100, 0.5, priority=1), "work without a deadline comes after it"
    assert not door.refuses(100, 0.5, priority=0)
    assert door.refuses(100, 2.0, priority=2) == "deadline", "what is better comes before it"


def test_the_rest_of_the_running_batch_counts() -> None:
    door = Door()
    door.admission.batch_began(0, 0.0, 1000)
    assert door.refuses(100, 1.0) == "deadline"
    assert not door.refuses(100, 1.0, now=0.9)
    assert door.refuses(100, 1.0, now=2.5) == "deadline", "it has taken longer than expected, and may go on"
    door.admission.batch_ended(0)
    assert not door.refuses(100, 0.01), "a free worker tries"


def test_workers_share_what_waits() -> None:
    one, two = Door(), Door(workers=2)
    for door in (one, two):
        door.wait(4000, deadline=100.0)
    assert one.admission.wait_s(0.0) == pytest.approx(2 * two.admission.wait_s(0.0))
    assert one.refuses(100, 4.6) == "deadline"
    assert not two.refuses(100, 4.6)


def test_a_tenant_waits_for_fair_shares_of_others_only() -> None:
    door = Door(weights={"gold": 3.0})
    door.wait(5000, tenant="heavy", deadline=100.0)
    assert door.refuses(100, 1.0, tenant="heavy") == "deadline"
    assert not door.refuses(100, 1.0, tenant="light"), "as much of the other's as of its own"
    assert door.refuses(500, 1.0, tenant="light") == "deadline"
    assert not door.refuses(500, 1.0, tenant="gold")


def test_a_full_queue_keeps_room_for_tenants_that_hold_little() -> None:
    door = Door(limit=1000)
    door.wait(1000, tenant="heavy")
    assert door.refuses(1, tenant="heavy") == "queue_full"
    reserve = int(TENANT_RESERVE * 1000)
    assert door.refuses(reserve + 1, tenant="light") == "queue_full"
    assert not door.refuses(reserve, tenant="light")
    for number in range(int((OVERFLOW - 1) / TENANT_RESERVE)):
        door.wait(reserve, tenant=f"light-{number}")
    assert door.refuses(1, tenant="another") == "queue_full", "memory has an end"


def test_a_call_larger_than_the_queue_is_taken_when_nothing_waits() -> None:
    door = Door(limit=100)
    assert not door.refuses(5000)
    door.wait(1)
    assert door.refuses(5000) == "queue_full"
