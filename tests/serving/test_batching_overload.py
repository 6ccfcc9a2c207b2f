"""What becomes of calls when more arrive than can be computed, in simulated time: the worker's speed is given, the policy is real."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from batching_simulation import SimulatedCall, Simulation, open_loop
from rewardmesh.serving.batching.forming import Batch

PER_TOKEN_S = 20e-6
CAPACITY = 1 / (PER_TOKEN_S * 500)
"""Calls of 500 tokens a second and worker, without overhead."""
SECONDS = 20.0


def worker(
    *, overhead_s: float = 0.002, noise: float = 0.1, stall_s: float = 0.0, slowdown_at: float | None = None
) -> Callable[[Batch[float]], float]:
    """Duration of a batch; a stall comes every four seconds or so."""
    rng = random.Random(1)
    clock = 0.0

    def seconds(batch: Batch[float]) -> float:
        nonlocal clock
        taken = (overhead_s + PER_TOKEN_S * batch.cost) * (1 + noise * rng.uniform(-1, 1))
        if slowdown_at is not None and clock > slowdown_at:
            taken *= 2
        if rng.random() < taken * 0.25:
            taken += stall_s
        clock += taken
        return taken

    return seconds


def uniform(timeout_s: float | None) -> Callable[[float, random.Random], SimulatedCall]:
    return lambda at, rng: SimulatedCall(at, timeout_s=timeout_s)


def mixed(timeout_s: float) -> Callable[[float, random.Random], SimulatedCall]:
    def make(at: float, rng: random.Random) -> SimulatedCall:
        items, tokens, factor = rng.choice([1, 2, 4, 8, 16]), rng.choice([150, 200, 400]), rng.choice([1, 1, 2, 4])
        return SimulatedCall(at, items=items, tokens=tokens, timeout_s=timeout_s * factor)

    return make


def figures(simulation: Simulation, calls: list[SimulatedCall], workers: int = 1) -> dict[str, float]:
    """Goodput over what the workers could do at best, and the part of the accepted calls that was in time."""
    accepted = [call for call in calls if not call.refused]
    in_time = [call for call in accepted if call.in_time]
    ended = max(end for _, end, _ in simulation.batches)
    return {
        "goodput": sum(call.cost for call in in_time) * PER_TOKEN_S / ended / workers,
        "in_time": len(in_time) / len(accepted),
        "refused": 1 - len(accepted) / len(calls),
        "busy": simulation.busy_s / ended / workers,
    }


@pytest.mark.parametrize("load", [2.0, 4.0])
@pytest.mark.parametrize(
    ("timeout_s", "budget", "workers", "make", "options"),
    [
        (1.0, 4096, 1, uniform, {}),
        (1.0, 16384, 1, uniform, {}),
        (2.0, 2048, 2, uniform, {"noise": 0.3}),
        (0.25, 4096, 1, uniform, {}),
        (1.0, 4096, 1, mixed, {}),
        (1.0, 4096, 2, mixed, {"noise": 0.3}),
    ],
)
def test_overload_costs_no_goodput_and_breaks_no_promise(
    load: float, timeout_s: float, budget: int, workers: int, make: Callable[..., Any], options: dict[str, float]
) -> None:
    simulation = Simulation(worker(**options), budget=budget, workers=workers)
    calls = open_loop(CAPACITY * load * workers, SECONDS, make(timeout_s))
    simulation.run(calls)
    found = figures(simulation, calls, workers)
    assert found["goodput"] >= 0.9, found
    assert found["in_time"] >= 0.99, found
    assert found["busy"] >= 0.98, found


def test_a_high_cost_of_every_batch_leads_to_larger_batches_not_to_collapse() -> None:
    simulation = Simulation(worker(overhead_s=0.02), budget=4096)
    calls = open_loop(CAPACITY * 3, SECONDS, uniform(0.5))
    simulation.run(calls)
    found = figures(simulation, calls)
    ideal = 4000 * PER_TOKEN_S / (0.02 + 4000 * PER_TOKEN_S)
    assert found["goodput"] >= 0.9 * ideal, found
    assert found["in_time"] >= 0.99, found


def test_stalls_are_absorbed() -> None:
    simulation = Simulation(worker(stall_s=0.2), budget=4096)
    calls = open_loop(CAPACITY * 2, SECONDS, uniform(1.0))
    simulation.run(calls)
    found = figures(simulation, calls)
    assert found["goodput"] >= 0.85, "a twentieth of the time is stalls"
    assert found["in_time"] >= 0.98, found


def test_a_machine_that_becomes_slower_is_noticed() -> None:
    simulation = Simulation(worker(slowdown_at=SECONDS / 2), budget=4096)
    calls = open_loop(CAPACITY * 2, SECONDS, uniform(1.0))
    simulation.run(calls)
    late = [call for call in calls if call.at > SECONDS / 2 + 2 and not call.refused]
    assert sum(call.in_time for call in late) >= 0.99 * len(late)
    assert sum(call.cost for call in late) * 2 * PER_TOKEN_S >= 0.85 * (SECONDS / 2 - 2)


def test_a_light_load_is_never_refused() -> None:
    simulation = Simulation(worker(), budget=4096)
    calls = open_loop(CAPACITY * 0.5, SECONDS, uniform(1.0))
    simulation.run(calls)
    assert figures(simulation, calls)["refused"] == 0
    assert all(call.in_time for call in calls)


def test_without_deadlines_nothing_is_refused_or_dropped_until_the_queue_is_full() -> None:
    simulation = Simulation(worker(), budget=4096, limit=100_000)
    calls = open_loop(CAPACITY * 2, SECONDS, uniform(None))
    simulation.run(calls)
    found = figures(simulation, calls)
    assert 0.4 < found["refused"] < 0.6
    assert not any(call.dropped for call in calls)
    assert found["goodput"] >= 0.9


def test_an_interactive_call_is_not_refused_for_work_that_comes_after_it() -> None:
    simulation = Simulation(worker(), budget=4096)
    background = [SimulatedCall(0.001 * n, priority=2) for n in range(2000)]  # 20 seconds of work
    urgent = [SimulatedCall(1.0 + 0.1 * n, items=1, timeout_s=0.5, priority=0) for n in range(50)]
    simulation.run([*background, *urgent])
    assert all(call.in_time for call in urgent)
    assert all(len(call.finished) == call.items for call in background)


def test_a_light_tenant_is_not_refused_for_what_a_heavy_one_has_queued() -> None:
    simulation = Simulation(worker(), budget=4096, limit=200_000)
    heavy = [SimulatedCall(0.0, tenant="heavy") for _ in range(1000)]
    light = [SimulatedCall(0.1 + 0.1 * n, timeout_s=1.0, tenant="light") for n in range(30)]
    simulation.run([*heavy, *light])
    assert all(call.in_time for call in light)
    accepted = [call for call in heavy if not call.refused]
    assert sum(call.items * call.tokens for call in accepted) <= 200_000 + 800, "one is computed at once"
    assert all(len(call.finished) == call.items for call in accepted)


def test_free_workers_divide_what_waits() -> None:
    simulation = Simulation(worker(noise=0.0), budget=4096, workers=4)
    simulation.run([SimulatedCall(0.0, items=1, tokens=100, shared=0), *(SimulatedCall(0.001, items=1, shared=0) for _ in range(20))])
    first, *others = simulation.batches
    assert first[2].cost == 100
    assert sum(batch.cost for _, _, batch in others) == 4000
    assert len(others) >= 3
    assert max(batch.cost for _, _, batch in others) <= 4000


def test_a_group_stays_whole_beside_free_workers() -> None:
    simulation = Simulation(worker(noise=0.0), budget=4096, workers=4)
    simulation.run([SimulatedCall(0.0, items=8, tokens=400, shared=200) for _ in range(2)])
    assert [batch.cost for _, _, batch in simulation.batches] == [1800, 1800]
