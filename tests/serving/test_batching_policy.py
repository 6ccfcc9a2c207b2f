"""Which items are computed together next: properties that hold whatever waits, in simulated time."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Hashable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardmesh.serving.batching import Ticket, Work
from rewardmesh.serving.batching.cost import CostModel
from rewardmesh.serving.batching.forming import AGED_SHARE, Batch, Former
from rewardmesh.serving.batching.queue import Queue

BUDGET = 100


class Waiting:
    """A queue with a former, and tickets that know what they are."""

    def __init__(
        self,
        *,
        weights: dict[str, float] | None = None,
        max_wait_s: float = 1e9,
        budget: int = BUDGET,
        target: int = 0,
        invariant: bool = False,
    ) -> None:
        self.queue: Queue[str] = Queue(weights or {})
        self.costs = CostModel()
        self.former: Former[str] = Former(
            self.queue, self.costs, budget_tokens=budget, target_tokens=target or budget, max_wait_s=max_wait_s, invariant=invariant
        )

    def add(
        self, *works: Work[str], priority: int = 1, tenant: str = "", deadline: float = math.inf, now: float = 0.0
    ) -> list[Ticket[str]]:
        tickets: list[Ticket[str]] = [Ticket(work, now, lambda done: None) for work in works]
        self.queue.push(tickets, priority, tenant, deadline)
        return tickets

    def form(self, now: float = 0.0) -> Batch[str]:
        return self.former.form(now, idle=False)

    def batches(self) -> list[list[str]]:
        """Names of the items of all batches until the queue is empty."""
        formed = []
        while self.queue:
            batch = self.form()
            if batch.tickets:
                formed.append(names(batch))
        return formed


def names(batch: Batch[str]) -> list[str]:
    return [ticket.work.payload for ticket in batch.tickets]


def item(name: str, tokens: int = 10, *, group: Hashable = None, shared: int = 0, lane: Hashable = "v1") -> Work[str]:
    return Work(name, lane, group if group is not None else name, tokens, shared)


def cost(tickets: Sequence[Ticket[str]]) -> int:
    """Tokens really computed for a batch: the engine shares a group's prompt."""
    paid: set[Hashable] = set()
    total = 0
    for ticket in tickets:
        total += ticket.work.tokens - (ticket.work.shared_tokens if ticket.work.group in paid else 0)
        paid.add(ticket.work.group)
    return total


item_plans = st.tuples(st.integers(0, 130), st.sampled_from("gh"), st.sampled_from(["v1", "v2"]))
call_plans = st.lists(
    st.tuples(
        st.lists(item_plans, min_size=1, max_size=8),
        st.integers(0, 2),
        st.sampled_from(["", "a", "b"]),
        st.sampled_from([math.inf, 50.0, 3.0, 0.0]),
        st.integers(0, 3),
        st.sampled_from([None, 0, 1]),
    ),
    max_size=12,
)


@settings(deadline=None, max_examples=300)
@given(call_plans, st.booleans(), st.floats(0, 10), st.sampled_from([0.0, 2.0, 1e9]))
def test_every_item_leaves_once_and_no_batch_breaks_a_rule(plan: list[tuple], invariant: bool, now: float, max_wait_s: float) -> None:  # type: ignore[type-arg]
    waiting = Waiting(max_wait_s=max_wait_s, invariant=invariant)
    everything: list[Ticket[str]] = []
    withdrawn: set[int] = set()
    for number, (items, priority, tenant, deadline, leave, hasten) in enumerate(plan):
        works = [
            item(f"{number}-{i}", tokens, group=group, lane=lane, shared=min(tokens, 7)) for i, (tokens, group, lane) in enumerate(items)
        ]
        tickets = waiting.add(*works, priority=priority, tenant=tenant, deadline=deadline)
        everything += tickets
        for ticket in tickets[:leave]:
            assert waiting.queue.withdraw(ticket)
            assert not waiting.queue.withdraw(ticket), "an item leaves once"
            withdrawn.add(id(ticket))
        if hasten is not None:
            waiting.queue.hasten(tickets[-1:], hasten, 40.0)
    expected_tokens = sum(ticket.work.tokens for ticket in everything if id(ticket) not in withdrawn)
    assert waiting.queue.tokens == expected_tokens
    left: list[Ticket[str]] = []
    while waiting.queue:
        batch = waiting.form(now)
        left += batch.tickets + batch.expired
        assert not batch.hopeless, "nothing is known about the time it takes"
        assert not batch.tickets or len({ticket.work.lane for ticket in batch.tickets}) == 1
        assert cost(batch.tickets) == batch.cost
        assert batch.cost <= BUDGET or len(batch.tickets) == 1
        if invariant:
            assert len({(ticket.work.payload.partition("-")[0], ticket.work.group) for ticket in batch.tickets}) <= 1
    assert sorted(map(id, left)) == sorted({id(ticket) for ticket in everything} - withdrawn), "each exactly once"
    assert waiting.queue.tokens == 0
    assert waiting.queue.cost == 0
    assert not waiting.queue.tenant_tokens
    assert all(level.items == 0 for level in waiting.queue.levels.values())


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.sampled_from([math.inf, 9.0, 5.0])), min_size=1, max_size=30))
def test_the_order_is_class_then_deadline_then_arrival(plan: list[tuple[int, int, float]]) -> None:
    waiting = Waiting(budget=10)
    expected = []
    for number, (priority, _, deadline) in enumerate(plan):
        waiting.add(item(str(number)), priority=priority, deadline=deadline)
        expected.append((priority, deadline, number))
    assert waiting.batches() == [[str(number)] for _, _, number in sorted(expected)]


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(1, 3)), min_size=1, max_size=30))
def test_a_group_in_a_batch_takes_along_all_of_it_that_fits(calls: list[tuple[str, int]]) -> None:
    waiting = Waiting()
    for number, (group, items) in enumerate(calls):
        waiting.add(*(item(f"{number}-{i}", 12, group=group, shared=10) for i in range(items)))
    while waiting.queue:
        batch = waiting.form()
        groups = {ticket.work.group for ticket in batch.tickets}
        remaining = {bundle.group for bundle in waiting.queue._arrivals if bundle.live}
        if BUDGET - batch.cost >= 2:
            assert not groups & remaining, "the rest of a group costs two tokens an item here"


def test_what_shares_a_prompt_is_not_split_when_it_fits_a_batch_of_its_own() -> None:
    waiting = Waiting()
    waiting.add(item("alone", 50))
    waiting.add(*(item(f"a{i}", 50, group="a", shared=40) for i in range(5)))
    waiting.add(item("small", 20))
    assert waiting.batches() == [["alone", "small"], ["a0", "a1", "a2", "a3", "a4"]]


def test_the_head_stays_the_head_when_it_does_not_fit() -> None:
    waiting = Waiting()
    waiting.add(item("first", 60))
    waiting.add(item("big", 90))
    for number in range(100):
        waiting.add(item(f"small-{number}", 10))
    batches = waiting.batches()
    assert batches[0] == ["first", "small-0", "small-1", "small-2", "small-3"]
    assert batches[1][0] == "big"


def test_a_lower_class_fills_up_and_its_items_of_the_same_prompt_come_first() -> None:
    waiting = Waiting()
    waiting.add(item("other", 20), priority=2)
    waiting.add(item("sibling", 50, group="g", shared=40), priority=2)
    waiting.add(item("urgent", 75, group="g", shared=40), priority=0)
    assert waiting.batches() == [["urgent", "sibling"], ["other"]]


def test_two_lanes_take_turns_by_the_order_of_their_heads() -> None:
    waiting = Waiting()
    for number in range(3):
        waiting.add(item(f"old-{number}", 40, lane="v1"), item(f"new-{number}", 40, lane="v2"))
    assert waiting.batches() == [["old-0", "old-1"], ["new-0", "new-1"], ["old-2"], ["new-2"]]


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32), st.sampled_from([(1.0, 3.0), (1.0, 1.0), (5.0, 2.0)]), st.integers(30, 200))
def test_tenants_that_are_always_busy_get_their_shares(seed: int, weights: tuple[float, float], budget: int) -> None:
    rng = random.Random(seed)
    waiting = Waiting(weights={"a": weights[0], "b": weights[1]}, budget=budget)
    names_left = iter(range(10**6))
    largest = 60
    used = {"a": 0, "b": 0}
    queued = {"a": 0, "b": 0}
    for _ in range(200):
        for tenant in ("a", "b"):
            while queued[tenant] < 4 * budget + largest:
                tokens = rng.randint(1, largest)
                waiting.add(item(f"{tenant}{next(names_left)}", tokens), tenant=tenant)
                queued[tenant] += tokens
        for ticket in waiting.form().tickets:
            tenant = ticket.work.payload[0]
            used[tenant] += ticket.work.tokens
            queued[tenant] -= ticket.work.tokens
        # One bundle each of what was served last, and what was put aside because it did not fit.
        assert abs(used["a"] / weights[0] - used["b"] / weights[1]) <= 2 * largest * (1 / weights[0] + 1 / weights[1])


def test_idleness_earns_no_credit() -> None:
    waiting = Waiting(budget=10)
    for number in range(20):
        waiting.add(item(f"busy-{number}"), tenant="busy")
    for _ in range(10):
        waiting.form()
    for number in range(10):
        waiting.add(item(f"late-{number}"), tenant="late")
    order = [name.partition("-")[0] for batch in waiting.batches() for name in batch]
    assert order.count("late") == order.count("busy") == 10
    assert max(abs(order[:n].count("late") - order[:n].count("busy")) for n in range(20)) <= 1


def test_a_tenant_pays_for_what_rides_along() -> None:
    waiting = Waiting(budget=40)
    waiting.add(item("a-0", 10, group="g"), tenant="a")
    waiting.add(*(item(f"b-{n}", 10, group="g") for n in range(3)), tenant="b")
    for number in range(1, 10):
        waiting.add(item(f"a-{number}", 10), tenant="a")
        waiting.add(item(f"b-x{number}", 10), tenant="b")
    first, second, *_ = waiting.batches()
    assert first == ["a-0", "b-0", "b-1", "b-2"]
    assert [name[0] for name in second].count("a") >= 3


def test_nothing_starves_behind_a_better_class() -> None:
    waiting = Waiting(budget=10, max_wait_s=5.0)
    for number in range(40):
        waiting.add(item(f"low-{number}"), priority=2, now=0.0)
    served: list[str] = []
    for step in range(100):
        now = float(step)
        waiting.add(item(f"high-{step}"), priority=0, now=now)
        served += names(waiting.form(now))
    assert served[:5] == [f"high-{n}" for n in range(5)], "at first the better class only"
    assert served[5] == "low-0", "what has waited too long goes first"
    low = [index for index, name in enumerate(served) if name.startswith("low")]
    assert all(later - earlier <= math.ceil(1 / AGED_SHARE) for earlier, later in itertools.pairwise(low))
    assert [served[index] for index in low] == [f"low-{n}" for n in range(len(low))]
    assert len(low) / (len(served) - 5) == pytest.approx(AGED_SHARE, abs=0.02), "and no more than its share of what is computed"


def test_nothing_starves_behind_deadlines_or_other_tenants() -> None:
    waiting = Waiting(budget=10, max_wait_s=5.0, weights={"rich": 1000.0})
    waiting.add(item("patient"), tenant="rich", now=0.0)
    waiting.add(item("poor-1"), item("poor-2"), tenant="poor", now=0.0)
    served: list[str] = []
    for step in range(30):
        waiting.add(item(f"hurried-{step}"), tenant="rich", deadline=step + 10.0, now=float(step))
        served += names(waiting.form(float(step)))
    assert {"patient", "poor-1", "poor-2"} <= set(served)


def known(seconds_per_token: float, overhead_s: float = 0.0) -> CostModel:
    """A cost model that has seen enough."""
    costs = CostModel()
    for tokens in (10, 100, 20, 50) * 10:
        costs.observe(tokens, overhead_s + tokens * seconds_per_token)
    return costs


def test_what_cannot_be_ready_in_time_is_dropped_and_the_rest_is_computed() -> None:
    waiting = Waiting()
    waiting.former._costs = waiting.costs = known(0.01)
    waiting.add(item("hopeless", 50), deadline=0.3)
    waiting.add(item("soon", 50), deadline=1.0)
    waiting.add(item("later", 50), deadline=9.0)
    batch = waiting.form(0.0)
    assert [ticket.work.payload for ticket in batch.hopeless] == ["hopeless"]
    assert names(batch) == ["soon"], "with the third the second would be late"
    assert names(waiting.form(0.5)) == ["later"]


def test_an_idle_worker_tries_in_any_case() -> None:
    waiting = Waiting()
    waiting.former._costs = waiting.costs = known(0.01)
    waiting.add(item("slow", 50), deadline=0.3)
    assert names(waiting.former.form(0.0, idle=True)) == ["slow"]


def test_an_invariant_batch_is_never_cut_by_time() -> None:
    waiting = Waiting(invariant=True)
    waiting.former._costs = waiting.costs = known(0.01)
    waiting.add(*(item(f"a{n}", 20, group="a") for n in range(4)), deadline=0.5)
    assert names(waiting.form(0.0)) == ["a0", "a1", "a2", "a3"], "its results would depend on the time of day"


def test_hastening_moves_an_item_forward_and_keeps_it_longer() -> None:
    waiting = Waiting(budget=10)
    waiting.add(item("a"), deadline=5.0)
    [ticket, _] = waiting.add(item("b"), item("c"), priority=2, deadline=2.0)
    waiting.queue.hasten([ticket], 0, 9.0)
    assert names(waiting.form(3.0)) == ["b"], "a better class, and the later caller still wants it"
    rest = waiting.form(3.0)
    assert names(rest) == ["a"]
    assert [each.work.payload for each in rest.expired] == [], "expired when it was formed before"
    assert not waiting.queue


def test_memory_follows_what_waits() -> None:
    waiting = Waiting()
    for number in range(20_000):
        [ticket] = waiting.add(item(str(number), group="one" if number % 2 else number), deadline=1e6 - number, tenant=str(number % 3))
        if number >= 10:
            waiting.queue.withdraw(ticket)
    queue = waiting.queue
    held = len(queue._arrivals) + len(queue._expiries) + sum(map(len, queue._groups.values()))
    held += sum(tenant.held for level in queue.levels.values() for tenant in level.tenants.values())
    assert held < 20_000
    assert len(queue._groups) <= 10
    assert sum(map(len, waiting.batches())) == 10


def test_only_a_group_makes_a_batch_of_more_than_the_target() -> None:
    """Batches that suit the caches, but the answers to one prompt stay together while the budget has room for them."""
    waiting = Waiting(budget=100, target=30)
    alone = [Work(f"alone {n}", lane="v1", group=f"alone {n}", tokens=10) for n in range(5)]
    group = [Work(f"answer {n}", lane="v1", group="prompt", tokens=30, shared_tokens=20) for n in range(6)]
    waiting.add(*alone[:2])
    waiting.add(*group)
    waiting.add(*alone[2:])
    batches = []
    while waiting.queue:
        batches.append([ticket.work.payload for ticket in waiting.form().tickets])
    assert [f"answer {n}" for n in range(6)] in batches
    assert sorted(len(batch) for batch in batches if "answer 0" not in batch) == [2, 3]
