"""The HTTP client of remote engines: bounded in number and time, every failure a typed absence."""

from __future__ import annotations

import functools
import gc
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from rewardmesh.engine.http import HttpClient, HttpOptions, RequestError, gather
from rewardmesh.serving.errors import ItemsLostError
from rewardmesh.v1 import common_pb2 as pb

from .scripted_server import Answer, Script, scripted

INFRASTRUCTURE, OVERLOADED = pb.ABSENCE_REASON_INFRASTRUCTURE, pb.ABSENCE_REASON_OVERLOADED


def ask(script: Script, requests: int = 1, **options: Any) -> tuple[list[Any], list[Any], int]:
    """What comes of POSTs to a scripted server, what it got, and how many it had at once."""
    with scripted(script) as server:
        client = HttpClient(server.address, HttpOptions(**({"timeout_s": 5.0} | options)), engine="test")
        try:
            results = client.run([functools.partial(client.post, "/x", {"n": n}) for n in range(requests)])
        finally:
            client.close()
        return results, server.requests, server.most_at_once


def always(answer: Answer, path: str, body: Any) -> Answer:
    return answer


def failure(script: Script, **options: Any) -> pb.Absence:
    [result], _, _ = ask(script, **options)
    assert isinstance(result, RequestError)
    return result.absence


@pytest.fixture
def free_port() -> Iterator[int]:
    """A port on which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def test_many_requests_are_in_flight_but_no_more_than_allowed() -> None:
    results, requests, most = ask(lambda path, body: Answer(body["n"], delay_s=0.05), requests=24, max_concurrency=6)
    assert results == list(range(24)), "in order"
    assert len(requests) == 24
    assert 2 <= most <= 6


@pytest.mark.parametrize("status", [429, 503])
def test_overload_is_tried_again_and_then_absent(status: int) -> None:
    busy = Answer({"error": {"message": "too many"}}, status)
    answers = iter([busy, Answer(["fine"])])
    [result], requests, _ = ask(lambda path, body: next(answers), tries=2)
    assert result == ["fine"]
    assert len(requests) == 2
    lost = failure(lambda path, body: busy, tries=2)
    assert (lost.reason, lost.retryable) == (OVERLOADED, True)
    assert "too many" in lost.detail


def test_retry_after_is_honoured_when_short_and_reported_when_long() -> None:
    times: list[float] = []

    def script(path: str, body: Any) -> Answer:
        times.append(time.monotonic())
        return Answer({}, 429, {"Retry-After": "0.4"}) if len(times) == 1 else Answer({"ok": True})

    [result], _, _ = ask(script)
    assert result == {"ok": True}
    assert times[1] - times[0] >= 0.4
    lost = failure(lambda path, body: Answer({}, 429, {"Retry-After": "60"}))
    assert lost.retry_after.seconds == 60
    lost = failure(lambda path, body: Answer({}, 429, {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}), tries=1)
    assert not lost.HasField("retry_after")


def test_what_the_server_cannot_do_is_not_tried_again() -> None:
    for answer, retryable in (
        (Answer({"error": "no such field"}, 400), False),
        (Answer("boom", 500), True),
        (Answer("<html>", 200), False),
    ):
        [result], requests, _ = ask(functools.partial(always, answer))
        assert isinstance(result, RequestError)
        assert len(requests) == 1
        assert (result.absence.reason, result.absence.retryable) == (INFRASTRUCTURE, retryable), result.absence
    assert "no such field" in failure(lambda path, body: Answer({"error": {"message": "no such field"}}, 422)).detail


def test_a_slow_answer_is_given_up() -> None:
    began = time.monotonic()
    lost = failure(lambda path, body: Answer("late", delay_s=1.5), timeout_s=0.2)
    assert time.monotonic() - began < 1.5 + 1
    assert (lost.reason, lost.retryable) == (INFRASTRUCTURE, True)
    assert "in time" in lost.detail


def test_waiting_for_a_turn_is_no_timeout() -> None:
    results, _, most = ask(lambda path, body: Answer(body["n"], delay_s=0.2), requests=6, max_concurrency=1, timeout_s=0.8)
    assert (results, most) == (list(range(6)), 1)


def test_a_server_that_is_away(free_port: int) -> None:
    client = HttpClient(f"http://127.0.0.1:{free_port}", HttpOptions(tries=2), engine="test")
    with pytest.raises(RequestError, match="cannot be reached") as error:
        client.one(lambda: client.get("/x"))
    client.close()
    assert (error.value.absence.reason, error.value.absence.retryable) == (INFRASTRUCTURE, True)


def test_a_shape_other_than_expected_is_an_absence() -> None:
    client = HttpClient("http://127.0.0.1:9", HttpOptions(), engine="test")
    with pytest.raises(RequestError, match="is not as expected: KeyError"), client.reading("the answer"):
        _ = dict[str, int]()["choices"]
    client.close()


def test_the_others_of_a_batch_keep_their_results() -> None:
    results, _, _ = ask(lambda path, body: Answer({}, 400) if body["n"] == 1 else Answer(body["n"]), requests=3)
    with pytest.raises(ItemsLostError, match="1 of 3 items lost") as error:
        gather(results)
    assert [result if isinstance(result, int) else "lost" for result in error.value.results] == [0, "lost", 2]
    assert gather([1, 2]) == [1, 2]


def test_cancelling_breaks_off_what_runs() -> None:
    cancelled = threading.Event()
    with scripted(lambda path, body: Answer("late", delay_s=1.0)) as server:
        client = HttpClient(server.address, HttpOptions(), engine="test")
        threading.Timer(0.1, cancelled.set).start()
        began = time.monotonic()
        assert client.run([lambda: client.post("/x", {})], cancelled) == []
        assert time.monotonic() - began < 0.9
        client.close()


def test_events_are_read_until_done_and_a_refusal_is_an_error() -> None:
    text = 'data: {"n": 1}\n\n: a comment\n\ndata: {"n": 2}\n\ndata: [DONE]\n\n'

    async def read(client: HttpClient) -> list[Any]:
        return [event async for event in client.events("/stream", {})]

    with scripted(lambda path, body: Answer(text)) as server:
        client = HttpClient(server.address, HttpOptions(), engine="test")
        assert client.one(lambda: read(client)) == [{"n": 1}, {"n": 2}]
        client.close()
    with scripted(lambda path, body: Answer({"error": {"message": "too many"}}, 429)) as server:
        client = HttpClient(server.address, HttpOptions(), engine="test")
        with pytest.raises(RequestError, match="too many"):
            client.one(lambda: read(client))
        client.close()


def test_a_client_that_nobody_holds_ends_its_thread() -> None:
    client = HttpClient("http://127.0.0.1:9", HttpOptions(), engine="collected")
    assert any(thread.name == "collected-http" for thread in threading.enumerate())
    del client
    gc.collect()
    assert not any(thread.name == "collected-http" for thread in threading.enumerate())
