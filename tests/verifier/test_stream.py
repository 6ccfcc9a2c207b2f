"""StreamVerify on the wire: exactly once, nothing waits for a slow sample, nothing is held without bound."""

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Any

import grpc
import pytest
from prometheus_client import REGISTRY

from rewardmesh.serving import Server
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import verifier_service_pb2 as verifier_pb
from rewardmesh.verifier.stream import LONGEST_KEPT_ID

Start = Callable[..., Awaitable[tuple[Server, Any]]]
Outcomes = dict[str, verifier_pb.VerdictOutcome]

PASS, FAIL = verifier_pb.VERDICT_STATUS_PASS, verifier_pb.VERDICT_STATUS_FAIL


def request(samples: Sequence[tuple[str, str]] = (), verifier: str = "", references: Sequence[str] = ("4",), **options: Any) -> Any:
    """A message of the stream; samples are pairs (id, completion)."""
    message = verifier_pb.StreamVerifyRequest(
        verifier=verifier,
        samples=[pb.Sample(id=id, completion=pb.Completion(text=text), references=references) for id, text in samples],
    )
    if options:
        message.options.update(options)
    return message


async def collect(call: Any) -> Outcomes:
    """All outcomes by id; every one must come once, and no reply may be empty."""
    found: Outcomes = {}
    while (reply := await call.read()) is not grpc.aio.EOF:
        assert reply.outcomes
        for outcome in reply.outcomes:
            assert outcome.sample_id not in found
            found[outcome.sample_id] = outcome
    return found


async def refused(call: Any, code: grpc.StatusCode) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await collect(call)
    assert caught.value.code() is code, caught.value
    return caught.value.details() or ""


async def sent(messages: Iterable[Any]) -> AsyncIterator[Any]:
    for message in messages:
        yield message


def reason(outcome: verifier_pb.VerdictOutcome) -> str:
    return pb.AbsenceReason.Name(outcome.absence.reason).removeprefix("ABSENCE_REASON_") if outcome.HasField("absence") else "present"


def counted(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


@pytest.mark.parametrize("verifier", ["exact-match", "math"])
async def test_every_sample_is_answered_once(start: Start, verifier: str) -> None:
    _, stub = await start(workers=2, replica="v1", stream_window_items=100)
    rng = random.Random(0)
    texts = {str(n): rng.choice(["4", "5"]) for n in range(1500)}
    items = list(texts.items())
    messages = [request(verifier=verifier)]
    while items:
        size = rng.choice([0, 1, 7, 300])
        messages.append(request(items[:size]))
        del items[:size]
    present = {"service": "rewardmesh.v1.VerifierService", "model": verifier, "outcome": "present"}
    before = counted("rewardmesh_items_total", **present)
    found = await collect(stub.StreamVerify(sent(messages), timeout=60))
    assert {id: outcome.verdict.status for id, outcome in found.items()} == {
        id: PASS if text == "4" else FAIL for id, text in texts.items()
    }
    assert {outcome.provenance.replica for outcome in found.values()} == {"v1"}
    assert all(outcome.provenance.compute_seconds > 0 for outcome in found.values())
    assert counted("rewardmesh_items_total", **present) - before == 1500
    assert counted("rewardmesh_inflight_items", service="rewardmesh.v1.VerifierService") == 0


async def test_samples_may_come_in_the_first_message_or_not_at_all(start: Start) -> None:
    _, stub = await start()
    found = await collect(stub.StreamVerify(sent([request([("a", "4"), ("b", "four")], "exact-match")]), timeout=20))
    assert {id: outcome.verdict.status for id, outcome in found.items()} == {"a": PASS, "b": FAIL}
    assert found["b"].verdict.evidence == "'four' does not equal reference '4'"
    assert await collect(stub.StreamVerify(sent([request(verifier="exact-match")]), timeout=20)) == {}
    assert await collect(stub.StreamVerify(sent([]), timeout=20)) == {}


@pytest.mark.parametrize(
    ("messages", "code", "words"),
    [
        ([request([("a", "4")])], "INVALID_ARGUMENT", "verifier: must be named in the first message"),
        ([request(verifier="maths")], "NOT_FOUND", "no verifier named 'maths'; known: "),
        ([request(verifier="exact-match", ignore_csae=True)], "INVALID_ARGUMENT", "options.ignore_csae: unknown option"),
        ([request(verifier="exact-match", whitespace="some")], "INVALID_ARGUMENT", "options.whitespace"),
        (
            [request(verifier="exact-match"), request([("a", "4")], "math")],
            "INVALID_ARGUMENT",
            "verifier: may only be in the first message",
        ),
        ([request(verifier="exact-match"), request(ignore_case=True)], "INVALID_ARGUMENT", "options: may only be in the first message"),
        ([request([("a", "4"), ("a", "4")], "exact-match")], "INVALID_ARGUMENT", "samples[1].id: 'a' is already the id of samples[0]"),
        ([request([("a", "4")], "exact-match"), request([("", "4")])], "INVALID_ARGUMENT", "samples[0].id: must not be empty"),
        (
            [request([("a", "4")], "exact-match"), request([("b", "4")]), request([("c", "4"), ("a", "4")])],
            "INVALID_ARGUMENT",
            "samples[1].id: 'a' came before; ids must be unique in a stream",
        ),
        (
            [request([("i" * (LONGEST_KEPT_ID + 1), "4")], "math"), request([("i" * (LONGEST_KEPT_ID + 1), "4")])],
            "INVALID_ARGUMENT",
            "came before",
        ),
        ([request([(str(n), "4") for n in range(12)], "exact-match")], "RESOURCE_EXHAUSTED", "a stream may bring at most 10 samples"),
    ],
)
async def test_mistakes_end_the_stream(start: Start, messages: list[Any], code: str, words: str) -> None:
    _, stub = await start(max_stream_items=10)
    assert words in await refused(stub.StreamVerify(sent(messages), timeout=20), grpc.StatusCode[code])


async def test_long_ids_that_differ_are_different(start: Start) -> None:
    _, stub = await start()
    ids = ["i" * LONGEST_KEPT_ID, "i" * (LONGEST_KEPT_ID + 1), "i" * 5000 + "a", "i" * 5000 + "b"]
    messages = [request([(id, "4")], "exact-match" if n == 0 else "") for n, id in enumerate(ids)]
    assert set(await collect(stub.StreamVerify(sent(messages), timeout=20))) == set(ids)


async def test_mistakes_of_a_sample_are_absences(start: Start, hostile: str) -> None:
    _, stub = await start(verifier_packages=(hostile,), max_text_bytes=200_000)
    message = request([("none", "4"), ("unset", "4"), ("huge", "4" * 200_001), ("long", " " * 100_000 + "4"), ("fine", "4")], "exact-match")
    del message.samples[0].references[:]
    message.samples[1].ClearField("completion")
    found = await collect(stub.StreamVerify(sent([message]), timeout=20))
    assert {id: reason(outcome) for id, outcome in found.items()} == {
        "none": "NOT_APPLICABLE",
        "unset": "INVALID_INPUT",
        "huge": "TOO_LONG",
        "long": "present",
        "fine": "present",
    }
    assert found["long"].verdict.status == found["fine"].verdict.status == PASS
    found = await collect(stub.StreamVerify(sent([request([("1", "good"), ("2", "bad"), ("3", "go\nod")], "fragile")]), timeout=20))
    assert {id: reason(outcome) for id, outcome in found.items()} == {"1": "present", "2": "INFRASTRUCTURE", "3": "present"}
    assert found["2"].absence.detail == "verifier fragile raised LookupError: no such thing: ?"
    assert (found["1"].verdict.evidence, found["3"].verdict.location.line) == ("fine ?", 1)


async def test_no_reply_waits_for_a_stuck_sample(start: Start, hostile: str) -> None:
    _, stub = await start(workers=2, verifier_packages=(hostile,), item_timeout_seconds=3.0)
    items = [(str(n), "good") for n in range(300)]
    items.insert(10, ("stuck", "bad"))
    order: list[str] = []
    async for reply in stub.StreamVerify(sent([request(items, "forever")]), timeout=30):
        order += [outcome.sample_id for outcome in reply.outcomes]
    assert order[-1] == "stuck", "what lies behind the stuck sample is checked by the other worker"
    assert sorted(order[:-1], key=int) == [str(n) for n in range(300)]


async def test_a_lone_sample_is_answered_while_the_stream_stays_open(start: Start) -> None:
    _, stub = await start()
    for verifier in ("exact-match", "math"):
        call = stub.StreamVerify(timeout=20)
        await call.write(request([("1", "4")], verifier))
        for n in range(2, 5):
            reply = await asyncio.wait_for(call.read(), 10)
            assert [outcome.sample_id for outcome in reply.outcomes] == [str(n - 1)]
            await call.write(request([(str(n), "4")]))
        await call.done_writing()
        assert list(await collect(call)) == ["4"]


async def test_killed_workers_cost_no_sample(start: Start, hostile: str, worker_pids: Callable[[], list[int]]) -> None:
    _, stub = await start(workers=2, verifier_packages=(hostile,))
    call = stub.StreamVerify(sent([request([(str(n), "good") for n in range(40)], "slow")]), timeout=60)
    first = await call.read()
    for pid in worker_pids():
        os.kill(pid, signal.SIGKILL)
    found = await collect(call)
    assert len(found) + len(first.outcomes) == 40
    assert {reason(outcome) for outcome in found.values()} == {"present"}


async def test_a_stream_holds_no_more_than_its_window(start: Start, hostile: str) -> None:
    _, stub = await start(verifier_packages=(hostile,), stream_window_items=8, replica="window")
    call = stub.StreamVerify(sent([request([(str(n), "good") for n in range(500)], "slow")]), timeout=60)
    seen = 0
    while seen < 30:
        seen += len((await call.read()).outcomes)
        assert counted("rewardmesh_verifier_queue_items", replica="window") <= 8
    call.cancel()


async def test_a_stream_waits_for_room_in_the_queue(start: Start, hostile: str) -> None:
    _, stub = await start(verifier_packages=(hostile,), max_queue_items=10)
    unary = verifier_pb.VerifyRequest(verifier="slow", samples=[pb.Sample(id=str(n), completion=pb.Completion()) for n in range(10)])
    first = asyncio.ensure_future(stub.Verify(unary, timeout=30))
    await asyncio.sleep(0.2)
    found = await collect(stub.StreamVerify(sent([request([(str(n), "good") for n in range(25)], "slow")]), timeout=30))
    assert [reason(outcome) for outcome in found.values()] == ["present"] * 25
    assert len((await first).outcomes) == 10


@pytest.mark.parametrize("verifier", ["verbose", "regex"])
async def test_a_caller_that_takes_no_replies_stops_the_work(start: Start, hostile: str, verifier: str) -> None:
    _, stub = await start(verifier_packages=(hostile,), stream_window_items=64)
    labels = {"service": "rewardmesh.v1.VerifierService", "model": verifier, "outcome": "present"}
    before = counted("rewardmesh_items_total", **labels)
    options: dict[str, Any] = {"must_match": ["x" * 3000]} if verifier == "regex" else {}
    call = stub.StreamVerify(timeout=60)
    await call.write(request(verifier=verifier, **options))
    written = 0

    async def write() -> None:
        nonlocal written
        while True:
            await call.write(request([(f"{written}-{n}", "y" * 3000) for n in range(50)]))
            written += 1

    writing = asyncio.ensure_future(write())
    previous = -1
    while written != previous:  # until the writer has been stopped for a second
        previous = written
        await asyncio.sleep(1.0)
        assert written < 2000, "the server reads on though nobody takes its replies"
    done = counted("rewardmesh_items_total", **labels) - before
    assert done < 50 * written
    # Once the replies are taken it goes on.
    seen = 0
    while seen <= done:
        reply = await asyncio.wait_for(call.read(), 10)
        assert reply is not grpc.aio.EOF
        seen += len(reply.outcomes)
    assert counted("rewardmesh_items_total", **labels) - before >= seen > done
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    call.cancel()


async def test_a_cancelled_stream_stops_costing(start: Start, hostile: str) -> None:
    _, stub = await start(verifier_packages=(hostile,), replica="stream-cancelled")
    call = stub.StreamVerify(sent([request([(str(n), "good") for n in range(400)], "slow")]))
    assert (await call.read()).outcomes
    call.cancel()
    began = time.monotonic()
    assert len(await collect(stub.StreamVerify(sent([request([("1", "good")], "slow")]), timeout=20))) == 1
    assert time.monotonic() - began < 2
    assert counted("rewardmesh_verifier_queue_items", replica="stream-cancelled") == 0
    assert counted("rewardmesh_inflight_items", service="rewardmesh.v1.VerifierService") == 0


async def test_a_deadline_brings_what_is_done_and_ends_the_rest(start: Start, hostile: str) -> None:
    _, stub = await start(verifier_packages=(hostile,), stream_window_items=50)
    items = [(str(n), "good") for n in range(100)]
    found = await collect(stub.StreamVerify(sent([request(items, "slow")]), timeout=1.0))
    assert len(found) == 100
    reasons = [reason(outcome) for outcome in found.values()]
    assert reasons[0] == "present"
    assert reasons[-1] == "DEADLINE"
    assert set(reasons) == {"present", "DEADLINE"}
    assert all(outcome.absence.retryable for outcome in found.values() if outcome.HasField("absence"))


async def test_a_stream_left_open_ends_at_the_deadline(start: Start) -> None:
    _, stub = await start()
    call = stub.StreamVerify(timeout=0.5)
    await call.write(request([("1", "4")], "math"))
    assert len((await call.read()).outcomes) == 1
    await refused(call, grpc.StatusCode.DEADLINE_EXCEEDED)


async def test_a_check_beyond_its_limits_can_be_a_fail(start: Start, hostile: str) -> None:
    _, stub = await start(item_timeout_seconds=0.5, memory_limit_bytes=2**29)
    items = [("hang", "#### 9**9**9**9"), ("fine", "#### 4")]
    absent = await collect(stub.StreamVerify(sent([request(items, "math")]), timeout=30))
    assert (reason(absent["hang"]), absent["fine"].verdict.status) == ("DEADLINE", PASS)
    failed = await collect(stub.StreamVerify(sent([request(items, "math", on_timeout="fail")]), timeout=30))
    assert (failed["hang"].verdict.status, failed["hang"].verdict.score) == (FAIL, 0.0)
    assert failed["hang"].verdict.evidence == "the check took longer than the limit of 0.5 s"
    assert failed["fine"].verdict.status == PASS


async def test_the_calls_own_deadline_is_no_fail(start: Start) -> None:
    _, stub = await start(item_timeout_seconds=30.0)
    found = await collect(stub.StreamVerify(sent([request([("hang", "#### 9**9**9**9")], "math", on_timeout="fail")]), timeout=0.7))
    assert reason(found["hang"]) == "DEADLINE"


async def test_stopping_lets_a_stream_finish(start: Start, hostile: str, worker_pids: Callable[[], list[int]]) -> None:
    server, stub = await start(verifier_packages=(hostile,))
    call = stub.StreamVerify(sent([request([(str(n), "good") for n in range(20)], "slow")]), timeout=30)
    first = await call.read()
    stopping = asyncio.create_task(server.stop())
    assert len(first.outcomes) + len(await collect(call)) == 20
    await stopping
    assert worker_pids() == []
