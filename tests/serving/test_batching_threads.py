"""The batcher's threads and its other ways in: tickets, jobs, several workers, and what happens when something breaks."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import grpc
import pytest
from prometheus_client import REGISTRY

from rewardmesh.serving import CallError
from rewardmesh.serving.batching import Batcher, Done, Work
from rewardmesh.v1 import common_pb2 as pb

Compute = Callable[[Hashable, Sequence[str]], Sequence[tuple[str, int]]]


class Gate:
    """An engine whose batches wait until it is opened."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.threads: set[str] = set()
        self.entered = threading.Semaphore(0)
        self.open = threading.Event()

    def compute(self, lane: Hashable, payloads: Sequence[str]) -> list[tuple[str, int]]:
        self.batches.append(list(payloads))
        self.threads.add(threading.current_thread().name)
        self.entered.release()
        assert self.open.wait(20)
        return [(payload.upper(), 1) for payload in payloads]

    async def wait_for_batch(self) -> None:
        assert await asyncio.to_thread(self.entered.acquire, timeout=10)


def make(compute: Compute, **options: Any) -> Batcher[str, str]:
    settings: dict[str, Any] = {"service": "test-threads", "budget_tokens": 1000, "max_queue_tokens": 10_000}
    return Batcher(compute, **(settings | options))


def work(payload: str, tokens: int = 10, group: Hashable = None) -> Work[str]:
    return Work(payload, "v1", group or payload, tokens)


async def test_tickets_are_answered_withdrawn_and_hastened() -> None:
    gate = Gate()
    batcher = make(gate.compute, budget_tokens=10)
    [first] = batcher.enqueue([work("first")])
    await gate.wait_for_batch()
    a, b, c, d = batcher.enqueue([work(name) for name in "abcd"], priority=2)
    batcher.withdraw([b])
    assert b.future.cancelled()
    assert batcher.load()[0] == 30
    d.future.cancel()
    batcher.hasten([c], priority=0, deadline=math.inf)
    batcher.hasten([first], priority=0, deadline=0.0)  # is being computed
    gate.open.set()
    done = await asyncio.gather(first.future, a.future, c.future)
    assert [item.result for item in done] == ["FIRST", "A", "C"]
    await batcher.close()
    assert gate.batches == [["first"], ["c"], ["a"]]
    assert batcher.load()[0] == 0
    assert REGISTRY.get_sample_value("rewardmesh_inflight_items", {"service": "test-threads"}) == 0
    with pytest.raises(CallError):
        batcher.enqueue([work("late")])


async def test_close_answers_tickets() -> None:
    gate = Gate()
    batcher = make(gate.compute)
    [running] = batcher.enqueue([work("running")])
    await gate.wait_for_batch()
    [waiting] = batcher.enqueue([work("waiting")])
    closing = asyncio.create_task(batcher.close())
    done = await waiting.future
    assert done.absence is not None
    assert done.absence.reason == pb.ABSENCE_REASON_INFRASTRUCTURE
    gate.open.set()
    await closing
    assert (await running.future).result == "RUNNING"
    await batcher.close()


async def test_workers_compute_side_by_side_and_close_waits_for_all() -> None:
    gate = Gate()
    prepared: set[str] = set()
    batcher = make(gate.compute, workers=3, initialise=lambda: prepared.add(threading.current_thread().name))
    calls = []
    for name in "abc":
        calls.append(asyncio.create_task(batcher.submit([work(name)])))
        await gate.wait_for_batch()
    calls.append(asyncio.create_task(batcher.submit([work("d")])))
    await asyncio.sleep(0.05)
    assert gate.batches == [["a"], ["b"], ["c"]], "three at once, the fourth waits"
    gate.open.set()
    assert [[item.result for item in await call] for call in calls] == [["A"], ["B"], ["C"], ["D"]]
    await batcher.close()
    assert len(gate.threads) == len(prepared) == 3


async def test_a_large_call_is_divided_among_the_workers() -> None:
    gate = Gate()
    batcher = make(gate.compute, workers=2, budget_tokens=10_000)
    call = asyncio.create_task(batcher.submit([work(str(number), 100) for number in range(20)]))
    await gate.wait_for_batch()
    await gate.wait_for_batch()
    gate.open.set()
    assert [item.result for item in await call] == [str(number) for number in range(20)]
    await batcher.close()
    assert sorted(map(len, gate.batches)) == [10, 10]


async def test_jobs_run_between_batches_one_at_a_time() -> None:
    running = 0
    most = 0

    def job() -> str:
        nonlocal running, most
        running += 1
        most = max(most, running)
        time.sleep(0.005)
        running -= 1
        return threading.current_thread().name

    batcher = make(lambda lane, payloads: [(payload, 1) for payload in payloads], workers=3)
    found = await asyncio.gather(*(batcher.run(job) for _ in range(10)), *(batcher.submit([work(str(n))]) for n in range(10)))
    assert most == 1
    assert all("engine" in name for name in found if isinstance(name, str))
    with pytest.raises(ZeroDivisionError):
        await batcher.run(lambda: 1 // 0)
    await batcher.close()
    with pytest.raises(CallError, match="stopping") as refused:
        await batcher.run(job)
    assert refused.value.code is grpc.StatusCode.UNAVAILABLE


async def test_jobs_and_batches_take_turns() -> None:
    order: list[str] = []
    started, gate = threading.Event(), threading.Event()

    def compute(lane: Hashable, payloads: Sequence[str]) -> list[tuple[str, int]]:
        started.set()
        assert gate.wait(10)
        order.extend(payloads)
        return [(payload, 1) for payload in payloads]

    batcher = make(compute, budget_tokens=10)
    calls = [asyncio.ensure_future(batcher.submit([work("b0")]))]
    await asyncio.to_thread(started.wait, 10)
    calls += [asyncio.ensure_future(batcher.submit([work(f"b{n}")])) for n in (1, 2)]
    jobs = [asyncio.ensure_future(batcher.run(lambda n=n: order.append(f"j{n}"))) for n in range(2)]  # type: ignore[misc]
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(*calls, *jobs)
    await batcher.close()
    assert order == ["b0", "j0", "b1", "j1", "b2"]


async def test_a_job_that_waits_is_refused_by_close() -> None:
    gate = Gate()
    batcher = make(gate.compute)
    call = asyncio.create_task(batcher.submit([work("a")]))
    await gate.wait_for_batch()
    job = asyncio.create_task(batcher.run(lambda: None))
    await asyncio.sleep(0)
    closing = asyncio.create_task(batcher.close())
    with pytest.raises(CallError, match="stopping"):
        await job
    gate.open.set()
    await closing
    assert (await call)[0].result == "A"


async def test_a_batch_wakes_the_event_loop_once(monkeypatch: pytest.MonkeyPatch) -> None:
    batcher = make(lambda lane, payloads: [(payload, 1) for payload in payloads])
    wakes = 0
    loop = asyncio.get_running_loop()
    original = loop.call_soon_threadsafe

    def counting(*arguments: Any, **options: Any) -> Any:
        nonlocal wakes
        wakes += threading.current_thread().name.endswith("engine-0")
        return original(*arguments, **options)

    monkeypatch.setattr(loop, "call_soon_threadsafe", counting)
    await batcher.submit([work(str(n)) for n in range(50)])
    assert wakes == 1
    await batcher.close()


async def test_a_bounded_delay_gathers_more() -> None:
    gate = Gate()
    gate.open.set()
    batcher = make(gate.compute, max_delay_seconds=5.0, budget_tokens=30)
    calls = [asyncio.create_task(batcher.submit([work(name)])) for name in "ab"]
    await asyncio.sleep(0.05)
    assert not gate.batches, "the batch is not full, and nothing has waited for long"
    calls.append(asyncio.create_task(batcher.submit([work("c")])))
    await asyncio.gather(*calls)
    assert gate.batches == [["a", "b", "c"]], "full"
    began = time.monotonic()
    await batcher.submit([work("d")], timeout_s=0.2)
    assert time.monotonic() - began < 2.0, "a deadline ends the delay"
    await batcher.close()


async def test_no_delay_without_asking_for_it() -> None:
    gate = Gate()
    batcher = make(gate.compute)
    call = asyncio.create_task(batcher.submit([work("a")]))
    await gate.wait_for_batch()
    gate.open.set()
    await call
    await batcher.close()


async def test_check_refuses_what_submit_would_refuse() -> None:
    gate = Gate()
    batcher = make(gate.compute, max_queue_tokens=20)
    batcher.check()
    running = asyncio.create_task(batcher.submit([work("running")]))
    await gate.wait_for_batch()
    waiting = asyncio.create_task(batcher.submit([work("waiting", 20)]))
    await asyncio.sleep(0)
    before = REGISTRY.get_sample_value("rewardmesh_refused_calls_total", {"service": "test-threads", "reason": "queue_full"}) or 0
    with pytest.raises(CallError, match="queue holds 20 of 20"):
        batcher.check(timeout_s=9.0)
    assert REGISTRY.get_sample_value("rewardmesh_refused_calls_total", {"service": "test-threads", "reason": "queue_full"}) == before + 1
    assert REGISTRY.get_sample_value("rewardmesh_queue_items", {"service": "test-threads", "priority": "training"}) == 1
    with pytest.raises(CallError, match="queue holds 20 of 20"):
        batcher.submit([work("refused", 1)]).send(None)  # in its first step: nothing is waited for
    gate.open.set()
    await asyncio.gather(running, waiting)
    await batcher.close()
    with pytest.raises(CallError, match="stopping"):
        batcher.check()


async def test_tenants_of_the_configuration_have_metrics_and_others_share_one() -> None:
    def tokens(tenant: str) -> float:
        return REGISTRY.get_sample_value("rewardmesh_tenant_tokens_total", {"service": "test-tenants", "tenant": tenant}) or 0.0

    batcher = make(lambda lane, payloads: [(payload, 1) for payload in payloads], service="test-tenants", tenant_weights={"gold": 3.0})
    for tenant, size in (("gold", 10), ("unheard-of", 20), ("", 30)):
        await batcher.submit([work(tenant, size)], tenant=tenant)
    await batcher.close()
    assert tokens("gold") == 10
    assert tokens("other") == 50
    assert REGISTRY.get_sample_value("rewardmesh_tenant_tokens_total", {"service": "test-tenants", "tenant": "unheard-of"}) is None


async def test_a_mistake_in_the_policy_leaves_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate()
    batcher = make(gate.compute)
    running = asyncio.create_task(batcher.submit([work("running")]))
    await gate.wait_for_batch()
    waiting = asyncio.create_task(batcher.submit([work("waiting")]))
    await asyncio.sleep(0)

    def broken(*arguments: object, **options: object) -> None:
        raise RuntimeError("no policy")

    monkeypatch.setattr("rewardmesh.serving.batching.forming.Former.form", broken)
    gate.open.set()
    for thread in threading.enumerate():
        if thread.name in gate.threads:
            thread.join(20)  # the loop stands still: it finds the result and the failure together, and the result came first
    assert (await running)[0].result == "RUNNING"
    [lost] = await waiting
    assert lost.absence is not None
    assert "no policy" in lost.absence.detail
    with pytest.raises(CallError, match="the batcher failed"):
        await batcher.submit([work("late")])
    await batcher.close()


async def test_a_thread_that_cannot_be_initialised_is_said() -> None:
    asked = threading.Event()

    def broken() -> None:
        assert asked.wait(10)
        raise RuntimeError("no device")

    batcher = make(lambda lane, payloads: [], initialise=broken)
    [ticket] = batcher.enqueue([work("a")])
    asked.set()
    lost = (await ticket.future).absence
    assert lost is not None
    assert "no device" in lost.detail
    with pytest.raises(CallError, match="no device"):
        batcher.check()
    await batcher.close()


async def test_many_callers_on_several_workers_all_get_their_own() -> None:
    def compute(lane: Hashable, payloads: Sequence[str]) -> list[tuple[str, int]]:
        time.sleep(0.0005)
        return [(payload[::-1], len(payload)) for payload in payloads]

    batcher = make(compute, workers=4, budget_tokens=64)

    async def caller(number: int) -> None:
        for turn in range(5):
            names = [f"{number}-{turn}-{item}" for item in range(number % 5 + 1)]
            call = batcher.submit([work(name, 5, group=number % 7) for name in names], priority=number % 3, tenant=str(number % 4))
            if number % 6 == 5:
                task = asyncio.create_task(call)
                await asyncio.sleep(0.001 * (turn % 2))
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                continue
            done: list[Done[str]] = await call
            assert [item.result for item in done] == [name[::-1] for name in names]

    await asyncio.wait_for(asyncio.gather(*(caller(number) for number in range(60))), 30)
    assert batcher.load()[0] == 0
    await batcher.close()
