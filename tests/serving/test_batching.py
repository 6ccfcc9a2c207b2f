"""The batching policy: who is first, what is computed together, and that every item is answered exactly once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Hashable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from rewardmesh.serving import CallError
from rewardmesh.serving.batching import Batcher, Done, Work
from rewardmesh.v1 import common_pb2 as pb

Payload = str


class Engine:
    """Records its batches; waits at a gate that tests open; fails on payloads that begin with 'poison'."""

    def __init__(self) -> None:
        self.batches: list[list[Payload]] = []
        self.lanes: list[Hashable] = []
        self.gate = threading.Event()
        self.entered = threading.Event()

    def compute(self, lane: Hashable, payloads: Sequence[Payload]) -> list[tuple[str, int]]:
        self.batches.append(list(payloads))
        self.lanes.append(lane)
        self.entered.set()
        assert self.gate.wait(20)
        if any(payload.startswith("poison") for payload in payloads):
            raise ValueError("poisoned")
        return [(payload.upper(), len(payload)) for payload in payloads]


@asynccontextmanager
async def serving(engine: Engine, **options: Any) -> AsyncIterator[Batcher[Payload, str]]:
    """A batcher over an engine; what still waits at the end may run."""
    settings: dict[str, Any] = {"service": "test", "budget_tokens": 100, "max_queue_tokens": 10_000}
    batcher: Batcher[Payload, str] = Batcher(engine.compute, **(settings | options))
    try:
        yield batcher
    finally:
        engine.gate.set()
        await batcher.close()


async def occupied(engine: Engine, batcher: Batcher[Payload, str]) -> asyncio.Task[list[Done[str]]]:
    """Hand the worker a first batch that waits at the gate, so that what comes next queues up."""
    task = asyncio.create_task(batcher.submit([work("first")]))
    await asyncio.to_thread(engine.entered.wait, 10)
    return task


def work(payload: Payload, tokens: int = 10, *, lane: Hashable = "v1", group: Hashable = None, shared: int = 0) -> Work[Payload]:
    return Work(payload, lane, group or payload, tokens, shared)


async def queued(batcher: Batcher[Payload, str], *works: Work[Payload], **options: Any) -> asyncio.Task[list[Done[str]]]:
    """Submit and let the call get into the queue."""
    task = asyncio.create_task(batcher.submit(works, **options))
    await asyncio.sleep(0)
    return task


async def test_results_come_in_order_with_what_they_cost() -> None:
    engine = Engine()
    engine.gate.set()
    async with serving(engine) as batcher:
        assert await batcher.submit([]) == []
        done = await batcher.submit([work("b"), work("aaa")])
    assert [(item.result, item.absence, item.tokens_computed) for item in done] == [("B", None, 1), ("AAA", None, 3)]
    assert all(item.queue_seconds >= 0 and item.compute_seconds >= 0 for item in done)


async def test_priority_then_deadline_then_arrival() -> None:
    engine = Engine()
    async with serving(engine, budget_tokens=10) as batcher:
        tasks = [await occupied(engine, batcher)]
        tasks.append(await queued(batcher, work("batch"), priority=2))
        tasks.append(await queued(batcher, work("late"), priority=1, timeout_s=90))
        tasks.append(await queued(batcher, work("none-1"), priority=1))
        tasks.append(await queued(batcher, work("none-2"), priority=1))
        tasks.append(await queued(batcher, work("soon"), priority=1, timeout_s=30))
        tasks.append(await queued(batcher, work("interactive"), priority=0))
        engine.gate.set()
        await asyncio.gather(*tasks)
    assert [batch[0] for batch in engine.batches] == ["first", "interactive", "soon", "late", "none-1", "none-2", "batch"]


async def test_a_batch_holds_one_lane() -> None:
    engine = Engine()
    async with serving(engine) as batcher:
        tasks = [await occupied(engine, batcher)]
        tasks.append(await queued(batcher, work("a", lane="v1"), work("b", lane="v2"), work("c", lane="v1")))
        engine.gate.set()
        await asyncio.gather(*tasks)
    assert engine.batches[1:] == [["a", "c"], ["b"]]
    assert engine.lanes[1:] == ["v1", "v2"]


async def test_groups_stay_together_across_calls() -> None:
    engine = Engine()
    async with serving(engine, budget_tokens=40) as batcher:
        tasks = [await occupied(engine, batcher)]
        tasks.append(await queued(batcher, work("a1", group="a"), work("b1", group="b"), work("a2", group="a"), work("b2", group="b")))
        tasks.append(await queued(batcher, work("a3", group="a")))
        engine.gate.set()
        await asyncio.gather(*tasks)
    assert engine.batches[1] == ["a1", "a2", "a3", "b1"]


async def test_a_shared_prompt_is_paid_once() -> None:
    engine = Engine()
    async with serving(engine, budget_tokens=100) as batcher:
        tasks = [await occupied(engine, batcher)]
        tasks.append(await queued(batcher, *(work(f"a{i}", 60, group="a", shared=50) for i in range(6))))
        engine.gate.set()
        await asyncio.gather(*tasks)
    assert [len(batch) for batch in engine.batches[1:]] == [5, 1], "60 + 4 * 10 fill the budget"


async def test_a_single_item_larger_than_the_budget_is_computed_alone() -> None:
    engine = Engine()
    async with serving(engine, budget_tokens=15) as batcher:
        tasks = [await occupied(engine, batcher), await queued(batcher, work("small"), work("giant", 500), work("tiny", 5))]
        engine.gate.set()
        await asyncio.gather(*tasks)
    assert engine.batches[1:] == [["small", "tiny"], ["giant"]]


async def test_cancelled_items_are_never_computed() -> None:
    engine = Engine()
    async with serving(engine) as batcher:
        first = await occupied(engine, batcher)
        gone, stays = await queued(batcher, work("gone-1"), work("gone-2")), await queued(batcher, work("stays"))
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        engine.gate.set()
        await asyncio.gather(first, stays)
        assert batcher.load()[0] == 0
    assert engine.batches == [["first"], ["stays"]]


async def test_expired_items_are_absent_and_never_computed() -> None:
    engine = Engine()
    async with serving(engine) as batcher:
        first = await occupied(engine, batcher)
        expired, past = await queued(batcher, work("expired"), timeout_s=0.01), await queued(batcher, work("past"), timeout_s=-1.0)
        await asyncio.sleep(0.05)
        engine.gate.set()
        for task in (expired, past):
            [done] = await task
            assert done.result is None
            assert done.absence is not None
            assert done.absence.reason == pb.ABSENCE_REASON_DEADLINE
            assert done.absence.retryable
        await first
    assert engine.batches == [["first"]]


async def test_a_full_queue_refuses_with_a_time_to_come_back() -> None:
    engine = Engine()
    async with serving(engine, max_queue_tokens=100) as batcher:
        tasks = [await occupied(engine, batcher), await queued(batcher, work("most", 90))]
        with pytest.raises(CallError, match="no room for 11 more") as refused:
            await batcher.submit([work("more", 11)])
        assert refused.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert refused.value.retry_after_s is not None
        assert refused.value.retry_after_s > 0
        tasks.append(await queued(batcher, work("fits", 10)))
        engine.gate.set()
        assert [[done.result for done in await task] for task in tasks] == [["FIRST"], ["MOST"], ["FITS"]]


async def test_cancelled_items_make_room() -> None:
    engine = Engine()
    async with serving(engine, max_queue_tokens=100) as batcher:
        tasks = [await occupied(engine, batcher)]
        gone = await queued(batcher, work("gone", 100))
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        tasks.append(await queued(batcher, work("fits", 100)))
        engine.gate.set()
        assert [[done.result for done in await task] for task in tasks] == [["FIRST"], ["FITS"]]


async def test_a_wait_longer_than_the_deadline_is_refused_at_once() -> None:
    engine = Engine()
    async with serving(engine) as batcher:
        first = await occupied(engine, batcher)
        await asyncio.sleep(0.2)
        engine.gate.set()
        await first  # ten tokens took 0.2 s
        engine.gate.clear()
        engine.entered.clear()
        tasks = [await occupied(engine, batcher), await queued(batcher, work("most", 1000), timeout_s=90)]
        with pytest.raises(CallError, match=r"longer than the call's 1\.00 s") as refused:
            await batcher.submit([work("more")], timeout_s=1.0)
        assert refused.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        engine.gate.set()
        await asyncio.gather(*tasks)


async def test_a_poisonous_item_harms_nobody_else() -> None:
    engine = Engine()
    async with serving(engine) as batcher:
        first = await occupied(engine, batcher)
        call = await queued(batcher, work("good"), work("poison"))
        other = await queued(batcher, work("other"))
        engine.gate.set()
        good, bad = await call
        assert good.result == "GOOD"
        assert bad.result is None
        assert bad.absence is not None
        assert bad.absence.reason == pb.ABSENCE_REASON_INFRASTRUCTURE
        assert "poisoned" in bad.absence.detail
        assert (await other)[0].result == "OTHER"
        assert (await batcher.submit([work("later")]))[0].result == "LATER"
        await first


async def test_an_engine_that_forgets_an_item_is_found_out() -> None:
    def forgetful(lane: Hashable, payloads: Sequence[Payload]) -> list[tuple[str, int]]:
        return [(payload, 0) for payload in payloads if payload != "lost"]

    batcher: Batcher[Payload, str] = Batcher(forgetful, service="test", budget_tokens=100, max_queue_tokens=100)
    kept, lost = await batcher.submit([work("kept"), work("lost")])
    assert kept.result == "kept"
    assert lost.absence is not None
    assert "0 results for 1 items" in lost.absence.detail
    await batcher.close()


async def test_batch_invariant_computes_each_group_of_a_call_by_itself() -> None:
    engine = Engine()
    async with serving(engine, batch_invariant=True) as batcher:
        tasks = [await occupied(engine, batcher)]
        tasks.append(await queued(batcher, work("a1", group="a"), work("b1", group="b"), work("a2", group="a")))
        tasks.append(await queued(batcher, work("a3", group="a")))
        engine.gate.set()
        await asyncio.gather(*tasks)
    assert engine.batches[1:] == [["a1", "a2"], ["b1"], ["a3"]]


async def test_close_answers_what_waits_and_finishes_what_runs() -> None:
    engine = Engine()
    async with serving(engine) as batcher:
        first, waiting = await occupied(engine, batcher), await queued(batcher, work("waiting"))
        closing = asyncio.create_task(batcher.close())
        [done] = await waiting
        assert done.absence is not None
        assert done.absence.reason == pb.ABSENCE_REASON_INFRASTRUCTURE
        assert done.absence.retryable
        assert batcher.load()[0] == 0
        engine.gate.set()
        await closing
        assert [item.result for item in await first] == ["FIRST"]
        with pytest.raises(CallError, match="stopping"):
            await batcher.submit([work("too late")])
    assert engine.batches == [["first"]]


Submitted = tuple[list[Work[Payload]], float | None, asyncio.Task[list[Done[str]]]]
calls = st.lists(
    st.tuples(
        st.lists(
            st.tuples(st.sampled_from(["ok", "poison"]), st.integers(1, 60), st.sampled_from("gh"), st.sampled_from(["v1", "v2"])),
            min_size=1,
            max_size=6,
        ),
        st.integers(0, 2),
        st.sampled_from([None, 30.0, 0.0]),
        st.booleans(),
    ),
    max_size=8,
)


@settings(deadline=None, max_examples=60)
@given(calls, st.booleans())
def test_every_item_is_answered_exactly_once(plan: list[tuple[Any, int, float | None, bool]], invariant: bool) -> None:
    with capture_logs():  # the poisoned items' tracebacks are no news
        asyncio.run(check_calls(plan, invariant))


async def check_calls(plan: list[tuple[Any, int, float | None, bool]], invariant: bool) -> None:
    engine = Engine()
    computed_tokens: dict[Payload, tuple[int, str]] = {}
    async with serving(engine, budget_tokens=80, batch_invariant=invariant) as batcher:
        first = await occupied(engine, batcher)
        tasks: list[Submitted] = []
        cancelled: list[Submitted] = []
        for number, (items, priority, timeout_s, cancel) in enumerate(plan):
            works = []
            for index, (kind, tokens, group, lane) in enumerate(items):
                payload = f"{kind}-{number}-{index}"
                computed_tokens[payload] = (tokens, lane)
                works.append(work(payload, tokens, group=group, lane=lane, shared=min(tokens, 5)))
            task = await queued(batcher, *works, priority=priority, timeout_s=timeout_s)
            (cancelled if cancel else tasks).append((works, timeout_s, task))
        for _, _, task in cancelled:
            task.cancel()
        await asyncio.gather(*(task for _, _, task in cancelled), return_exceptions=True)
        engine.gate.set()
        for works, timeout_s, task in tasks:
            done = await asyncio.wait_for(task, 20)
            assert len(done) == len(works)
            for item, asked in zip(done, works, strict=True):
                assert (item.result is None) != (item.absence is None), "never both, never neither"
                if timeout_s == 0.0 or asked.payload.startswith("poison"):
                    assert item.absence is not None
                else:
                    assert item.result == asked.payload.upper()
        await first
        assert batcher.load()[0] == 0
    gone = {asked.payload for works, timeout_s, _ in cancelled for asked in works}
    gone |= {asked.payload for works, timeout_s, _ in tasks if timeout_s == 0.0 for asked in works}
    for batch in engine.batches[1:]:
        assert not gone & set(batch), "nothing is computed that nobody waits for"
        assert len({computed_tokens[payload][1] for payload in batch}) == 1
        shared = 5 * (len(batch) - 1)
        assert len(batch) == 1 or sum(computed_tokens[payload][0] for payload in batch) - shared <= 80
    seen = [payload for batch in engine.batches[1:] for payload in batch if payload.startswith("ok") and len(batch) == 1]
    assert len(seen) == len(set(seen))
