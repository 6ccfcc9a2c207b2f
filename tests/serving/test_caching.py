"""Single-flight and kept results in front of a batcher: computed once, everybody answered by their own deadline, nothing wrong kept."""

from __future__ import annotations

import asyncio
import math
import threading
from collections import Counter
from collections.abc import AsyncIterator, Hashable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from rewardmesh.serving import CallError, metrics
from rewardmesh.serving.batching import Batcher, Done, Work
from rewardmesh.serving.caching import CacheSettings, CachingBatcher, FloatsCodec, KeyMaker
from rewardmesh.v1 import common_pb2 as pb

Caching = CachingBatcher[str, list[float]]


class Engine:
    """Gives each payload a number of its own; waits at a gate; 'poison' fails, 'nan' is not finite. Groups see their company."""

    def __init__(self, *, open_gate: bool = True, company: bool = False) -> None:
        self.batches: list[list[str]] = []
        self.gate = threading.Event()
        self.entered = threading.Event()
        self.company = company
        if open_gate:
            self.gate.set()

    @property
    def computed(self) -> Counter[str]:
        """How often each payload was computed."""
        return Counter(payload for batch in self.batches for payload in batch)

    def compute(self, lane: Hashable, payloads: Sequence[str]) -> list[tuple[list[float], int]]:
        self.batches.append(list(payloads))
        self.entered.set()
        assert self.gate.wait(20)
        if any(payload.startswith("poison") for payload in payloads):
            raise ValueError("poisoned")
        # With `company` a result depends on the batch, as rounding does.
        noise = 1e-9 * len(payloads) if self.company else 0.0
        return [([number(payload) + noise], len(payload)) for payload in payloads]


def number(payload: str) -> float:
    """What the engine computes."""
    return math.nan if payload.startswith("nan") else float(sum(payload.encode()))


@asynccontextmanager
async def caching(engine: Engine, *, memory_bytes: int = 2**20, **options: Any) -> AsyncIterator[Caching]:
    """A caching batcher over an engine; what still waits at the end may run."""
    service = options.pop("service", "cached-test")
    invariant = options.get("batch_invariant", False)
    batcher: Batcher[str, list[float]] = Batcher(
        engine.compute, service=service, **({"budget_tokens": 1000, "max_queue_tokens": 10_000} | options)
    )
    one = CachingBatcher(batcher, FloatsCodec(), CacheSettings(memory_bytes), service=service, batch_invariant=invariant)
    try:
        yield one
    finally:
        engine.gate.set()
        await one.close()


def work(payload: str, *, version: str = "v1", group: Hashable = None, tokens: int = 10, keyed: bool = True) -> Work[str]:
    key = KeyMaker("cached-test", [version], "test").key([], context=payload.encode()) if keyed else None
    return Work(payload, version, group or payload, tokens, 0, key)


async def begun(batcher: Caching, *payloads: str, **options: Any) -> asyncio.Task[list[Done[list[float]]]]:
    """Submit and let the call get as far as it can."""
    task = asyncio.create_task(batcher.submit([work(payload) for payload in payloads], **options))
    await asyncio.sleep(0)
    return task


async def entered(engine: Engine) -> None:
    assert await asyncio.to_thread(engine.entered.wait, 10)


async def occupied(engine: Engine, batcher: Caching) -> asyncio.Task[list[Done[list[float]]]]:
    """Keep the engine busy with an item that has no key."""
    task = asyncio.create_task(batcher.submit([work("busy", keyed=False)]))
    await entered(engine)
    return task


def present(done: Sequence[Done[list[float]]]) -> list[float]:
    """The values; every one must be there."""
    assert all(item.result is not None and item.absence is None for item in done)
    return [item.result[0] for item in done if item.result is not None]


def absence_of(done: Done[Any]) -> pb.AbsenceReason.ValueType:
    """Why it is absent; it must be."""
    assert done.result is None
    assert done.absence is not None
    return done.absence.reason


async def test_sixteen_callers_at_once_are_computed_once() -> None:
    engine = Engine(open_gate=False)
    async with caching(engine) as batcher:
        calls = [await begun(batcher, "a", "b") for _ in range(16)]
        engine.gate.set()
        replies = await asyncio.gather(*calls)
    assert engine.computed == {"a": 1, "b": 1}
    assert all(present(reply) == [number("a"), number("b")] for reply in replies)
    assert [[item.cached for item in reply] for reply in replies] == [[False, False]] + [[True, True]] * 15
    assert [sum(item.tokens_computed for item in reply) for reply in replies] == [2] + [0] * 15


async def test_later_callers_get_what_was_kept() -> None:
    engine = Engine()
    async with caching(engine) as batcher:
        [first] = await batcher.submit([work("a")])
        [second] = await batcher.submit([work("a")])
        other = await batcher.submit([work("a", version="v2"), work("a", keyed=False)])
    assert (first.result, first.cached, first.tokens_computed) == ([number("a")], False, 1)
    assert (second.result, second.cached, second.tokens_computed, second.compute_seconds) == ([number("a")], True, 0, 0.0)
    assert [item.cached for item in other] == [False, False], "another version, or no identity, is another computation"
    assert engine.computed == {"a": 3}


async def test_what_is_kept_cannot_be_changed_by_who_gets_it() -> None:
    async with caching(Engine()) as batcher:
        for _ in range(3):
            [done] = await batcher.submit([work("a")])
            assert done.result == [number("a")]
            done.result.append(1.0)


async def test_duplicates_in_a_call_are_one_computation() -> None:
    engine = Engine()
    async with caching(engine) as batcher:
        done = await batcher.submit([work("a"), work("b"), work("a"), work("b", keyed=False), work("a")])
    assert present(done) == [number(payload) for payload in "ababa"]
    assert engine.computed == {"a": 1, "b": 2}
    assert [item.cached for item in done] == [False, False, True, False, True]


async def test_followers_are_answered_when_the_leader_goes() -> None:
    engine = Engine(open_gate=False)
    async with caching(engine) as batcher:
        busy = await occupied(engine, batcher)
        leader, follower = await begun(batcher, "a", "b"), await begun(batcher, "a")
        leader.cancel()
        await asyncio.gather(leader, return_exceptions=True)
        assert batcher.load()[0] == 10, "b, which nobody else wants, made room"
        engine.gate.set()
        [done] = await follower
        await busy
    assert done.result == [number("a")]
    assert engine.computed == {"busy": 1, "a": 1}


async def test_what_nobody_waits_for_any_more_is_not_computed() -> None:
    engine = Engine(open_gate=False)
    async with caching(engine) as batcher:
        busy = await occupied(engine, batcher)
        calls = [await begun(batcher, "a") for _ in range(3)]
        for call in calls:
            assert batcher.load()[0] == 10
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
        assert batcher.load()[0] == 0
        late = await begun(batcher, "a")
        engine.gate.set()
        assert present(await late) == [number("a")]
        await busy
    assert engine.computed == {"busy": 1, "a": 1}


async def test_each_waiter_keeps_its_own_deadline() -> None:
    engine = Engine(open_gate=False)
    async with caching(engine) as batcher:
        busy = await occupied(engine, batcher)
        calls = [await begun(batcher, "a", timeout_s=timeout_s) for timeout_s in (0.3, 30.0, 0.4, None)]
        for index in (0, 2):
            [done] = await asyncio.wait_for(calls[index], 10)
            assert absence_of(done) == pb.ABSENCE_REASON_DEADLINE
            assert done.absence is not None
            assert done.absence.retryable
            assert not done.cached
        await asyncio.sleep(0.05)
        engine.gate.set()
        for index in (1, 3):
            assert present(await calls[index]) == [number("a")]
        await busy
    assert engine.computed == {"busy": 1, "a": 1}


async def test_a_deadline_that_passes_while_it_is_computed_harms_only_its_owner() -> None:
    engine = Engine(open_gate=False)
    async with caching(engine) as batcher:
        short = await begun(batcher, "a", timeout_s=0.3)
        await entered(engine)
        patient = await begun(batcher, "a")
        assert absence_of((await short)[0]) == pb.ABSENCE_REASON_DEADLINE
        engine.gate.set()
        assert present(await patient) == [number("a")]
        assert (await batcher.submit([work("a")], timeout_s=0.0))[0].cached, "what is known costs no time"
    assert engine.computed == {"a": 1}


async def test_a_follower_in_a_hurry_hastens_the_flight() -> None:
    engine = Engine(open_gate=False)
    async with caching(engine, budget_tokens=10) as batcher:
        calls = [await occupied(engine, batcher), await begun(batcher, "x", priority=2), await begun(batcher, "a", priority=2)]
        calls += [await begun(batcher, "y", priority=1), await begun(batcher, "a", priority=0)]
        engine.gate.set()
        await asyncio.gather(*calls)
    assert engine.batches == [["busy"], ["a"], ["y"], ["x"]]


async def test_absences_are_not_kept() -> None:
    engine = Engine(open_gate=False)
    async with caching(engine) as batcher:
        with capture_logs():
            busy = await occupied(engine, batcher)
            expired = await begun(batcher, "a", timeout_s=0.3)
            poisoned, follower = await begun(batcher, "poison"), await begun(batcher, "poison")
            assert absence_of((await expired)[0]) == pb.ABSENCE_REASON_DEADLINE
            engine.gate.set()
            for call in (poisoned, follower):
                [done] = await call
                assert absence_of(done) == pb.ABSENCE_REASON_INFRASTRUCTURE
                assert not done.cached
            await batcher.submit([work("poison")])
            await busy
        assert present(await batcher.submit([work("a")])) == [number("a")]
    assert engine.computed["poison"] == 2, "tried again"
    assert engine.computed["a"] == 1


async def test_what_is_not_finite_is_not_kept() -> None:
    engine = Engine()
    async with caching(engine) as batcher:
        for _ in range(2):
            [done] = await batcher.submit([work("nan")])
            assert done.result is not None
            assert math.isnan(done.result[0])
            assert not done.cached
    assert engine.computed == {"nan": 2}


async def test_without_memory_only_flights_are_shared() -> None:
    engine = Engine(open_gate=False)
    async with caching(engine, memory_bytes=0) as batcher:
        calls = [await begun(batcher, "a") for _ in range(4)]
        engine.gate.set()
        await asyncio.gather(*calls)
        assert engine.computed == {"a": 1}
        await batcher.submit([work("a")])
    assert engine.computed == {"a": 2}


async def test_a_refused_call_leaves_nothing_behind() -> None:
    engine = Engine(open_gate=False)
    async with caching(engine, max_queue_tokens=20) as batcher:
        calls = [await occupied(engine, batcher), await begun(batcher, "a"), await begun(batcher, "b")]
        with pytest.raises(CallError) as refused:
            await batcher.submit([work("a"), work("c"), work("d")])
        assert refused.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert batcher.load()[0] == 20
        calls.append(await begun(batcher, "a", "b"))  # what is under way needs no room
        engine.gate.set()
        await asyncio.gather(*calls)
        assert present(await batcher.submit([work("c"), work("d")])) == [number("c"), number("d")]
    assert engine.computed == {"busy": 1, "a": 1, "b": 1, "c": 1, "d": 1}


async def test_close_answers_those_who_wait() -> None:
    engine = Engine(open_gate=False)
    async with caching(engine) as batcher:
        busy = await occupied(engine, batcher)
        calls = [await begun(batcher, "a"), await begun(batcher, "a")]
        closing = asyncio.create_task(batcher.close())
        for call in calls:
            assert absence_of((await call)[0]) == pb.ABSENCE_REASON_INFRASTRUCTURE
        engine.gate.set()
        await asyncio.gather(closing, busy)
        with pytest.raises(CallError) as stopped:
            await batcher.submit([work("b")])
        assert stopped.value.code is grpc.StatusCode.UNAVAILABLE


async def test_hits_and_misses_are_counted() -> None:
    engine = Engine(open_gate=False)
    async with caching(engine, service="counted-cache") as batcher:
        calls = [await begun(batcher, "a", "b", "a"), await begun(batcher, "a")]
        engine.gate.set()
        await asyncio.gather(*calls)
        await batcher.submit([work("a"), work("x", keyed=False)])
    counted = {tier: metrics.CACHE_HITS.labels("counted-cache", tier)._value.get() for tier in ("memory", "redis", "flight")}
    assert counted == {"memory": 1, "redis": 0, "flight": 2}
    assert metrics.CACHE_MISSES.labels("counted-cache")._value.get() == 2


async def test_a_replay_is_equal_to_the_bit_whatever_was_kept_before() -> None:
    """With batch_invariant the company of an item is part of its identity, so a warm cache gives what a cold one gives."""
    group = [work(payload, group="g") for payload in ("a", "b", "c", "a")]
    engine = Engine(company=True)
    async with caching(engine, batch_invariant=True) as cold:
        expected = present(await cold.submit(group))
    engine = Engine(company=True)
    async with caching(engine, batch_invariant=True) as warm:
        await warm.submit([work("a", group="g")])
        await warm.submit([work("b", group="g"), work("c", group="g"), work("z", group="h")])
        assert present(await warm.submit(group)) == expected
        again = await warm.submit(group)
        assert present(again) == expected
        assert all(item.cached for item in again)
    assert engine.batches[-1] == ["a", "b", "c"], "a group is computed whole"


async def test_a_group_stays_whole_when_others_join_it() -> None:
    group = [work(payload, group="g") for payload in ("a", "b", "c")]
    engine = Engine(company=True)
    async with caching(engine, batch_invariant=True) as cold:
        expected = present(await cold.submit(group))
    engine = Engine(open_gate=False, company=True)
    async with caching(engine, batch_invariant=True) as batcher:
        busy = await occupied(engine, batcher)
        calls = []
        for priority, timeout_s in ((2, None), (1, 30.0), (0, 20.0), (0, None)):
            calls.append(asyncio.create_task(batcher.submit(group, priority=priority, timeout_s=timeout_s)))
            await asyncio.sleep(0)
        calls[0].cancel()
        engine.gate.set()
        for call in calls[1:]:
            assert present(await call) == expected
        await busy
    assert engine.batches == [["busy"], ["a", "b", "c"]]


async def test_half_a_group_in_memory_is_computed_whole_again() -> None:
    engine = Engine(company=True)
    group = [work(payload, group="g") for payload in ("a", "b", "c")]
    async with caching(engine, batch_invariant=True, memory_bytes=900) as batcher:
        first = present(await batcher.submit(group))
        assert present(await batcher.submit(group)) == first
    assert engine.batches == [["a", "b", "c"]] * 2


plans = st.lists(
    st.tuples(
        st.lists(st.sampled_from(["a", "b", "c", "poison", "nan"]), min_size=1, max_size=4),
        st.integers(0, 2),
        st.sampled_from([None, 30.0, 0.0]),
        st.sampled_from(["v1", "v2"]),
        st.sampled_from(["stay", "cancel", "sleep", "open"]),
    ),
    max_size=10,
)


@settings(deadline=None, max_examples=80)
@given(plans, st.sampled_from([0, 500, 2**20]), st.booleans())
def test_each_caller_gets_the_right_value_exactly_once(plan: list[tuple[Any, ...]], memory_bytes: int, invariant: bool) -> None:
    with capture_logs():
        asyncio.run(check(plan, memory_bytes, invariant))


async def check(plan: list[tuple[Any, ...]], memory_bytes: int, invariant: bool) -> None:
    engine = Engine(open_gate=False)
    async with caching(engine, memory_bytes=memory_bytes, batch_invariant=invariant, budget_tokens=40) as batcher:
        busy = await occupied(engine, batcher)
        calls = []
        for payloads, priority, timeout_s, version, action in plan:
            works = [work(payload, version=version, group="g") for payload in payloads]
            call = asyncio.create_task(batcher.submit(works, priority=priority, timeout_s=timeout_s))
            await asyncio.sleep(0)
            if action == "cancel":
                call.cancel()
            elif action == "sleep":
                await asyncio.sleep(0.001)
            elif action == "open":
                engine.gate.set()
            calls.append((payloads, timeout_s, call))
        engine.gate.set()
        replies = await asyncio.wait_for(asyncio.gather(busy, *(call for *_, call in calls), return_exceptions=True), 20)
        for (payloads, timeout_s, call), reply in zip(calls, replies[1:], strict=True):
            if call.cancelled():
                continue
            assert isinstance(reply, list), reply
            assert len(reply) == len(payloads)
            for payload, done in zip(payloads, reply, strict=True):
                assert (done.result is None) != (done.absence is None), "never both, never neither"
                if done.result is None:
                    assert timeout_s == 0.0 or payload == "poison"
                elif payload == "nan":
                    assert math.isnan(done.result[0])
                else:
                    assert done.result == [number(payload)]
        assert batcher.load()[0] == 0
        assert not len(batcher._flights), "nothing is left in the air"


async def test_many_callers_of_a_large_call_wait_for_one_computation() -> None:
    engine = Engine()
    payloads = [f"item-{index}" for index in range(300)]
    async with caching(engine, max_queue_tokens=10**6) as batcher:
        replies = await asyncio.gather(*(batcher.submit([work(payload) for payload in payloads]) for _ in range(8)))
        again = await batcher.submit([work(payload) for payload in reversed(payloads)])
    assert set(engine.computed.values()) == {1}
    assert all(present(reply) == [number(payload) for payload in payloads] for reply in replies)
    assert present(again) == [number(payload) for payload in reversed(payloads)]
