"""The cache that replicas share, with a real redis-server: shared results, and a Redis that is dead, frozen, corrupt or wrong."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Hashable, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import prometheus_client
import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from redis_process import RedisProcess, redis_process
from rewardmesh.serving import metrics
from rewardmesh.serving.batching import Batcher, Done, Work
from rewardmesh.serving.caching import CacheSettings, CachingBatcher, FloatsCodec, KeyMaker, shared
from rewardmesh.serving.caching.shared import SharedCache

Caching = CachingBatcher[str, list[float]]
PATIENT_S = 5.0  # for what must not fail on a busy machine
HASTY_S = 0.05


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    with redis_process(tmp_path_factory.mktemp("redis")) as one:
        yield one


@pytest.fixture
def redis(running: RedisProcess) -> RedisProcess:
    """An empty one that runs, whatever the test before did to it."""
    running.thaw()
    if running.process.poll() is not None:
        running.start()
    running.ask(b"FLUSHALL")
    return running


class Engine:
    """Counts what it computes."""

    def __init__(self) -> None:
        self.computed: Counter[str] = Counter()
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()

    def compute(self, lane: Hashable, payloads: Sequence[str]) -> list[tuple[list[float], int]]:
        self.entered.set()
        assert self.gate.wait(20)
        self.computed.update(payloads)
        return [([float(len(payload)), 0.1], 1) for payload in payloads]


@asynccontextmanager
async def replica(engine: Engine, url: str, **options: Any) -> AsyncIterator[Caching]:
    """A server's caching batcher; its own memory keeps nothing unless asked to."""
    given: dict[str, Any] = {"memory_bytes": 0, "timeout_seconds": PATIENT_S}
    invariant = options.pop("batch_invariant", False)
    service = options.pop("service", "redis-test")
    batcher: Batcher[str, list[float]] = Batcher(
        engine.compute,
        service=service,
        budget_tokens=1000,
        max_queue_tokens=options.pop("max_queue_tokens", 10**6),
        batch_invariant=invariant,
    )
    settings = CacheSettings(url=url, **(given | options))
    one = CachingBatcher(batcher, FloatsCodec(), settings, service=service, batch_invariant=invariant)
    try:
        yield one
    finally:
        await one.close()


def work(payload: str, group: str = "g") -> Work[str]:
    return Work(payload, "v1", group, 1, 0, KeyMaker("redis-test", ["f"], "test").key([], context=payload.encode()))


def works(*payloads: str) -> list[Work[str]]:
    return [work(payload) for payload in payloads]


def check(done: Sequence[Done[list[float]]], *payloads: str, cached: bool) -> None:
    """Every item has its value, and is cached or not."""
    assert [item.result for item in done] == [[float(len(payload)), 0.1] for payload in payloads]
    assert [item.cached for item in done] == [cached] * len(payloads)


async def until(condition: Callable[[], Any]) -> None:
    """Wait for what happens in the background."""
    for _ in range(1000):
        reached = condition()
        if await reached if asyncio.iscoroutine(reached) else reached:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not happen within 10 s")


async def test_replicas_share_what_one_computed(redis: RedisProcess) -> None:
    first, second = Engine(), Engine()
    async with replica(first, redis.url) as one, replica(second, redis.url) as other:
        check(await one.submit(works("a", "bb", "ccc")), "a", "bb", "ccc", cached=False)
        await redis.holds(3)
        check(await other.submit(works("ccc", "a")), "ccc", "a", cached=True)
        check((await other.submit(works("bb", "dddd")))[:1], "bb", cached=True)
    assert second.computed == {"dddd": 1}
    async with replica(second, redis.url, memory_bytes=2**20) as third:
        check(await third.submit(works("a")), "a", cached=True)
        redis.ask(b"FLUSHALL")
        check(await third.submit(works("a")), "a", cached=True)


async def test_entries_expire(redis: RedisProcess) -> None:
    async with replica(Engine(), redis.url, ttl_seconds=100.0) as one:
        await one.submit(works("a"))
        await redis.holds(1)
    name = f"rewardmesh:{work('a').key.hex()}"  # type: ignore[union-attr]
    left_ms = int(redis.ask(f"PTTL {name}".encode()).strip().removeprefix(b":"))
    assert 50_000 < left_ms <= 100_000


async def test_sixteen_callers_ask_redis_and_the_engine_once(redis: RedisProcess) -> None:
    engine = Engine()
    redis.ask(b"CONFIG RESETSTAT")
    async with replica(engine, redis.url) as one:
        replies = await asyncio.gather(*(one.submit(works("a", "b")) for _ in range(16)))
        await redis.holds(2)
    assert b"cmdstat_mget:calls=1," in redis.ask(b"INFO commandstats")
    assert engine.computed == {"a": 1, "b": 1}
    assert sum(item.cached for reply in replies for item in reply) == 30


async def test_followers_of_a_refused_leader_try_for_themselves(redis: RedisProcess) -> None:
    engine = Engine()
    engine.gate.clear()
    async with replica(engine, redis.url, max_queue_tokens=3) as one:
        busy = [asyncio.create_task(one.submit([Work("x", "v1", "x", 1)]))]
        await until(engine.entered.is_set)
        busy.append(asyncio.create_task(one.submit([Work("x", "v1", "x", 1)])))
        await until(lambda: one.load()[0] == 1)
        leader = asyncio.create_task(one.submit(works("a", "b", "c", "d")))
        await asyncio.sleep(0)
        follower = asyncio.create_task(one.submit(works("a")))
        outcome = (await asyncio.gather(leader, return_exceptions=True))[0]
        engine.gate.set()
        check(await follower, "a", cached=False)
        assert "no room" in str(outcome)
        await asyncio.gather(*busy)


async def test_the_leader_may_go_while_redis_is_asked(redis: RedisProcess) -> None:
    engine = Engine()
    async with replica(engine, redis.url) as one:
        leader = asyncio.create_task(one.submit(works("a", "b")))
        await asyncio.sleep(0)
        follower = asyncio.create_task(one.submit(works("b")))
        await asyncio.sleep(0)
        leader.cancel()
        check(await follower, "b", cached=True)
    assert engine.computed == {"b": 1}


async def test_a_group_is_found_whole_or_computed_whole(redis: RedisProcess) -> None:
    engine = Engine()
    async with replica(engine, redis.url, batch_invariant=True) as one:
        await one.submit(works("a", "b", "c"))
        await redis.holds(3)
        check(await one.submit(works("a", "b", "c")), "a", "b", "c", cached=True)
        async with Redis.from_url(redis.url) as client:
            await client.delete(*(await client.keys("rewardmesh:*"))[:1])
        check(await one.submit(works("a", "b", "c")), "a", "b", "c", cached=False)
    assert engine.computed == {"a": 2, "b": 2, "c": 2}


async def test_a_killed_redis_costs_nobody_an_answer(redis: RedisProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "PAUSE_SECONDS", 1.0)
    engine = Engine()
    errors = metrics.CACHE_ERRORS.labels("killed")
    async with replica(engine, redis.url, service="killed") as one:
        await one.submit(works("a"))
        await redis.holds(1)
        redis.kill()
        with capture_logs() as logs:
            for _ in range(20):
                check(await one.submit(works("a", "b")), "a", "b", cached=False)
        assert [line["event"] for line in logs] == ["the shared cache is bypassed"], "once per change, not once per call"
        failed = errors._value.get()
        assert 1 <= failed <= 3, "calls go past it"
        redis.start()
        with capture_logs() as logs:
            await asyncio.sleep(1.1)
            check(await one.submit(works("a")), "a", cached=False)
            await redis.holds(1)
            check(await one.submit(works("a")), "a", cached=True)
        assert [line["event"] for line in logs] == ["the shared cache answers again"]


async def test_a_full_redis_is_still_read(redis: RedisProcess) -> None:
    errors = metrics.CACHE_ERRORS.labels("full")
    async with replica(Engine(), redis.url, service="full") as one:
        await one.submit(works("a"))
        await redis.holds(1)
        redis.ask(b"CONFIG SET maxmemory 1")
        try:
            with capture_logs() as logs:
                for payload in ("b", "c"):
                    before = errors._value.get()
                    check(await one.submit(works(payload)), payload, cached=False)
                    await until(partial(_counts, errors, before + 1))
                check(await one.submit(works("a")), "a", cached=True)
        finally:
            redis.ask(b"CONFIG SET maxmemory 0")
        check(await one.submit(works("b")), "b", cached=False)
        await redis.holds(2)
    assert [line["event"] for line in logs] == ["the shared cache refuses commands (said once)"]


def _counts(counter: prometheus_client.Counter, wanted: float) -> bool:
    return bool(counter._value.get() == wanted)


async def test_a_frozen_redis_costs_a_moment_and_is_then_bypassed(redis: RedisProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "PAUSE_SECONDS", 60.0)
    engine = Engine()
    async with replica(engine, redis.url, timeout_seconds=HASTY_S, service="frozen") as one:
        await until(lambda: _warm(one))
        redis.freeze()
        try:
            with capture_logs() as logs:
                for number in range(10):
                    check(await asyncio.wait_for(one.submit(works(f"{number}")), 20), f"{number}", cached=False)
            assert metrics.CACHE_ERRORS.labels("frozen")._value.get() <= 4, "two look-ups and two writes at most"
            assert [line["event"] for line in logs] == ["the shared cache is bypassed"]
            async with asyncio.timeout(10):  # a server stops although Redis does not answer
                await one.close()
        finally:
            redis.thaw()


async def test_a_redis_that_thaws_is_used_again(redis: RedisProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "PAUSE_SECONDS", 0.1)
    async with replica(Engine(), redis.url, timeout_seconds=HASTY_S) as one:
        await until(lambda: _warm(one))
        redis.freeze()
        try:
            with capture_logs() as logs:
                await until(lambda: _bypassed(one, logs))
        finally:
            redis.thaw()
        await until(lambda: _warm(one))


async def _bypassed(one: Caching, logs: Sequence[Any]) -> bool:
    """Whether Redis has been given up; every call until then is answered."""
    check(await one.submit(works("other")), "other", cached=False)
    return any(line["event"] == "the shared cache is bypassed" for line in logs)


async def _warm(one: Caching) -> bool:
    """Whether the connection stands: an answer out of Redis, past the hasty timeout."""
    return (await one.submit(works("warm")))[0].cached


async def test_corrupt_values_are_misses_and_deleted(redis: RedisProcess) -> None:
    engine = Engine()
    errors = metrics.CACHE_ERRORS.labels("corrupt")
    async with replica(engine, redis.url, service="corrupt") as one, Redis.from_url(redis.url) as client:
        await one.submit(works("a", "b", "c", "d"))
        await redis.holds(4)
        names = {payload: f"rewardmesh:{work(payload).key.hex()}" for payload in "abcd"}  # type: ignore[union-attr]
        good = await client.get(names["a"])
        assert isinstance(good, bytes)
        await client.set(names["b"], good)  # the value of another key
        await client.set(names["c"], good[:-1])
        await client.set(names["d"], b"\x80\x04rubbish")
        await client.lpush("rewardmesh:list", "x")
        with capture_logs() as logs:
            done = await one.submit(works("a", "b", "c", "d"))
        check(done[:1], "a", cached=True)
        check(done[1:], "b", "c", "d", cached=False)
        assert {line["event"] for line in logs} == {"corrupt value in the shared cache, deleted"}
        assert errors._value.get() == 3
        await until(lambda: _all_good(client, names))
        check(await one.submit(works("a", "b", "c", "d")), "a", "b", "c", "d", cached=True)
    assert engine.computed == {"a": 1, "b": 2, "c": 2, "d": 2}


async def _all_good(client: Redis, names: dict[str, str]) -> bool:
    values = await client.mget(list(names.values()))
    return all(value is not None and len(value) == 22 for value in values)


async def test_a_redis_that_is_not_there_at_the_start(redis: RedisProcess) -> None:
    redis.kill()
    engine = Engine()
    with capture_logs() as logs:
        for url in (redis.url, "redis://no-such-host.invalid:6379/0"):
            async with replica(engine, url) as one:
                check(await one.submit(works("a", "b")), "a", "b", cached=False)
                check(await one.submit(works("a", "b")), "a", "b", cached=False)
    assert [line["event"] for line in logs] == ["the shared cache is bypassed"] * 2


async def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="redis://"):
        SharedCache("http://127.0.0.1", service="wrong", kind=1, ttl_seconds=1.0, timeout_seconds=1.0)


async def test_writes_are_given_up_when_too_much_is_on_its_way(redis: RedisProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "_PENDING_BYTES", 1000)
    cache = SharedCache(redis.url, service="full", kind=1, ttl_seconds=60.0, timeout_seconds=PATIENT_S)
    cache.put({b"a" * 16: bytes(600)})
    cache.put({b"b" * 16: bytes(600)})
    await redis.holds(1)
    assert await cache.get([b"a" * 16, b"b" * 16]) == {b"a" * 16: bytes(600)}
    cache.put({b"b" * 16: bytes(600)})
    await redis.holds(2)
    await cache.close()
