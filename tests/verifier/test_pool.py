"""The pool: misbehaving items cost only themselves, calls that end stop costing, nothing is left behind."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from rewardmesh.verifier.line import QueueFull
from rewardmesh.verifier.pool import Limits, Pool
from rewardmesh.verifier.process import WorkerDied
from rewardmesh.verifier.registry import LimitedOptions, Options
from rewardmesh.verifier.verdicts import Checked, NoVerdict, Reason, SampleFields, Verdict
from rewardmesh.verifier.verifiers.regex import RegexOptions

Make = Callable[..., Awaitable[Pool]]


@pytest.fixture
async def make(hostile: str) -> AsyncIterator[Make]:
    pools: list[Pool] = []

    async def make_one(**fields: Any) -> Pool:
        defaults: dict[str, Any] = {
            "workers": 1,
            "item_timeout_s": 0.5,
            "memory_limit_bytes": 2**29,
            "max_queue_items": 10_000,
            "recycle_after_items": 10_000,
            "packages": (hostile,),
        }
        pool = Pool(Limits(**(defaults | fields)))
        pools.append(pool)
        await pool.start()
        return pool

    yield make_one
    for pool in pools:
        await pool.close()


def samples(*completions: str) -> list[SampleFields]:
    return [SampleFields(text) for text in completions]


def reasons(results: list[Checked]) -> list[str]:
    return [checked.result.reason.value if isinstance(checked.result, NoVerdict) else checked.result.status.value for checked in results]


@pytest.mark.parametrize(
    ("verifier", "reason", "detail"),
    [
        ("forever", "DEADLINE", "longer than the limit of 0.5 s"),
        ("greedy", "INFRASTRUCTURE", "more memory than the limit of 536870912 bytes"),
        ("crashing", "INFRASTRUCTURE", "died 2 times"),
        ("broken", "INFRASTRUCTURE", "verifier broken raised LookupError: no such thing: ?"),
    ],
)
async def test_a_bad_item_costs_only_itself(make: Make, verifier: str, reason: str, detail: str) -> None:
    pool = await make()
    results = await pool.run(verifier, Options(), samples("good", "bad", "good", "bad", "good"), None)
    assert reasons(results) == ["pass", reason, "pass", reason, "pass"]
    assert isinstance(results[1].result, NoVerdict)
    assert detail in results[1].result.detail
    assert reasons(await pool.run(verifier, Options(), samples("good"), None)) == ["pass"]


async def test_catastrophic_pattern_is_contained(make: Make) -> None:
    pool = await make()
    options = RegexOptions.model_validate({"engine": "python", "must_match": ["^(a+)+$"]})
    results = await pool.run("regex", options, samples("aaa", "a" * 60 + "!", "aaaa"), None)
    assert reasons(results) == ["pass", "DEADLINE", "pass"]


async def test_killed_worker_is_replaced_and_its_item_tried_again(make: Make) -> None:
    pool = await make(workers=2)
    call = asyncio.create_task(pool.run("slow", Options(), samples(*["good"] * 20), None))
    await asyncio.sleep(0.2)
    killed = pool.worker_pids
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    assert set(reasons(await call)) == {"pass"}
    assert not set(killed) & set(pool.worker_pids)


async def test_workers_killed_while_idle_are_replaced(make: Make) -> None:
    pool = await make()
    for _ in range(2):
        os.kill(pool.worker_pids[0], signal.SIGKILL)
        assert reasons(await pool.run("slow", Options(), samples("good"), None)) == ["pass"]


async def test_no_item_answers_for_workers_that_were_killed_idle(make: Make) -> None:
    pool = await make(workers=2)
    for pid in pool.worker_pids:
        os.kill(pid, signal.SIGKILL)
    await asyncio.sleep(0.3)
    assert reasons(await pool.run("slow", Options(), samples("good"), None)) == ["pass"]


async def test_workers_are_recycled(make: Make) -> None:
    pool = await make(recycle_after_items=5)
    first = pool.worker_pids
    for _ in range(2):
        assert set(reasons(await pool.run("broken", Options(), samples(*["good"] * 12), None))) == {"pass"}
    assert pool.worker_pids != first


async def test_the_calls_deadline_caps_the_item_limit(make: Make) -> None:
    pool = await make(item_timeout_s=30.0)
    began = time.monotonic()
    results = await pool.run("forever", Options(), samples("good", "bad", "good"), 0.5)
    assert time.monotonic() - began < 2
    assert reasons(results) == ["pass", "DEADLINE", "DEADLINE"]
    assert all("the call's deadline passed" in checked.result.detail for checked in results if isinstance(checked.result, NoVerdict))
    assert reasons(await pool.run("forever", Options(), samples("good"), 20.0)) == ["pass"]


async def test_a_cancelled_call_stops_costing(make: Make) -> None:
    pool = await make()
    call = asyncio.create_task(pool.run("slow", Options(), samples(*["good"] * 500), None))
    await asyncio.sleep(0.2)
    assert pool.waiting > 0
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert pool.waiting == 0
    began = time.monotonic()
    assert reasons(await pool.run("slow", Options(), samples("good"), None)) == ["pass"]
    assert time.monotonic() - began < 1


async def test_a_small_call_does_not_wait_for_a_large_one(make: Make) -> None:
    pool = await make()
    large = asyncio.create_task(pool.run("slow", Options(), samples(*["good"] * 60), None))
    await asyncio.sleep(0.1)
    assert reasons(await pool.run("slow", Options(), samples("good"), None)) == ["pass"]
    assert not large.done()
    assert set(reasons(await large)) == {"pass"}


async def test_a_full_queue_refuses_early(make: Make) -> None:
    pool = await make(max_queue_items=40)
    call = asyncio.create_task(pool.run("slow", Options(), samples(*["good"] * 40), None))
    await asyncio.sleep(0.2)
    with pytest.raises(QueueFull) as caught:
        await pool.run("slow", Options(), samples(*["good"] * 40), None)
    assert caught.value.retry_after_s > 0
    assert len(await call) == 40


async def test_what_lies_behind_a_stuck_item_goes_to_another_worker(make: Make) -> None:
    pool = await make(workers=2, item_timeout_s=2.0)
    changes = asyncio.Event()
    job = pool.open("forever", Options(), None, changes.set)
    pool.add(job, [((str(n),), SampleFields("bad" if n == 3 else "good")) for n in range(50)])
    order: list[str] = []
    while len(order) < 50:
        await changes.wait()
        changes.clear()
        while item := job.take():
            order.append(item.keys[0])
    pool.end(job)
    assert order[-1] == "3"
    assert sorted(order, key=int) == [str(n) for n in range(50)]
    assert job.held == pool.waiting == 0


async def test_room_is_told_of(make: Make) -> None:
    pool = await make(max_queue_items=3)
    told = asyncio.Event()
    job = pool.open("slow", Options(), None, lambda: None)
    pool.add(job, [((str(n),), SampleFields("good")) for n in range(3)])
    assert pool.room == 0
    with pytest.raises(QueueFull):
        pool.add(job, [(("more",), SampleFields("good"))])
    pool.tell_of_room(told.set)
    await asyncio.wait_for(told.wait(), 5)
    assert pool.room > 0
    pool.end(job)
    assert pool.room == 3


async def test_an_item_beyond_its_memory_can_be_a_fail(make: Make) -> None:
    pool = await make()
    results = await pool.run("greedy", LimitedOptions(on_timeout="fail"), samples("good", "bad"), None)
    assert reasons(results) == ["pass", "fail"]
    assert isinstance(results[1].result, Verdict)
    assert "more memory than the limit" in results[1].result.evidence


async def test_closing_ends_workers_and_calls(make: Make, worker_pids: Callable[[], list[int]]) -> None:
    pool = await make(workers=2)
    assert worker_pids() == sorted(pool.worker_pids)
    call = asyncio.create_task(pool.run("forever", Options(), samples("bad", "good", "bad"), 20.0))
    await asyncio.sleep(0.1)
    await pool.close()
    assert worker_pids() == []
    assert set(reasons(await asyncio.wait_for(call, 5))) <= {"INFRASTRUCTURE", "pass"}
    await pool.close()


async def test_a_worker_that_cannot_start_is_reported(make: Make, worker_pids: Callable[[], list[int]]) -> None:
    with pytest.raises(WorkerDied):
        await make(workers=2, packages=("no_such_package",))
    assert worker_pids() == []


def is_worker(pid: int) -> bool:
    try:
        return b"rewardmesh.verifier.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False


async def test_workers_outlive_no_killed_server(hostile: str) -> None:
    program = """
import asyncio
from rewardmesh.verifier.pool import Limits, Pool
from rewardmesh.verifier.registry import Options
from rewardmesh.verifier.verdicts import SampleFields

async def main():
    pool = Pool(Limits(2, 1.0, 2**29, 100, 100, ("hostile",)))
    await pool.start()
    print(*pool.worker_pids, flush=True)
    await pool.run("forever", Options(), [SampleFields("bad")], None)

asyncio.run(main())
"""
    server = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE)
    assert server.stdout
    pids = [int(word) for word in (await server.stdout.readline()).split()]
    await asyncio.sleep(0.3)
    server.kill()
    await server.wait()
    deadline = time.monotonic() + 10
    while any(is_worker(pid) for pid in pids):
        assert time.monotonic() < deadline, "a worker is left behind"
        await asyncio.sleep(0.1)


async def test_large_texts_travel(make: Make) -> None:
    pool = await make()
    texts = ["x" * 2**20 + str(n) for n in range(8)]
    results = await pool.run("regex", RegexOptions.model_validate({"must_match": [r"\d$"]}), samples(*texts), None)
    assert [checked.result.span for checked in results if isinstance(checked.result, Verdict)] == [(2**20, 2**20 + 1)] * 8
    assert all(checked.compute_seconds > 0 for checked in results)
    assert Reason.DEADLINE not in reasons(results)
