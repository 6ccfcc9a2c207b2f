"""Limits of requests and tokens a minute: waited for where there is time, OVERLOADED where there is none."""

from __future__ import annotations

import functools
import math
import threading
import time
from typing import Any

import pytest

from rewardmesh.engine.http import HttpClient, HttpOptions, RequestError
from rewardmesh.serving.deadlines import until
from rewardmesh.v1 import common_pb2 as pb

from .scripted_server import Answer, scripted


def ask(requests: int, *, tokens: int = 1, deadline_s: float = math.inf, **options: Any) -> tuple[list[Any], int, float]:
    """What comes of requests, how many arrived, and how long it took."""
    with scripted(lambda path, body: Answer(body["n"])) as server:
        client = HttpClient(server.address, HttpOptions(**options), engine="test")
        began = time.monotonic()
        try:
            with until(began + deadline_s):
                found = client.run([functools.partial(client.post, "/x", {"n": n}, tokens=tokens) for n in range(requests)])
        finally:
            client.close()
        return found, len(server.requests), time.monotonic() - began


def refused(found: list[Any]) -> list[pb.Absence]:
    return [result.absence for result in found if isinstance(result, RequestError)]


def test_a_request_waits_for_its_turn() -> None:
    found, arrived, seconds = ask(2, tokens=3030, tokens_per_minute=6000)
    assert (found, arrived) == ([0, 1], 2)
    assert 0.5 <= seconds < 5, "60 tokens more than a minute's worth, 100 a second"


@pytest.mark.parametrize(
    ("limits", "name"),
    [({"requests_per_minute": 3}, "requests_per_minute"), ({"tokens_per_minute": 30}, "tokens_per_minute")],
)
@pytest.mark.parametrize("patience", [{"max_limit_wait_s": 0.1}, {"deadline_s": 0.1}, {"max_limit_wait_s": 0}])
def test_what_would_wait_too_long_is_overloaded(limits: dict[str, Any], name: str, patience: dict[str, Any]) -> None:
    found, arrived, seconds = ask(5, tokens=10, **limits, **patience)
    lost = refused(found)
    assert (arrived, len(lost)) == (3, 2), "the others are asked"
    assert seconds < 2
    assert {(absence.reason, absence.retryable) for absence in lost} == {(pb.ABSENCE_REASON_OVERLOADED, True)}
    assert all(name in absence.detail and absence.retry_after.seconds == 20 for absence in lost)


def test_a_request_larger_than_a_minutes_worth_goes_alone() -> None:
    found, arrived, _ = ask(2, tokens=1000, tokens_per_minute=30, max_limit_wait_s=0.1)
    assert (found[0], arrived) == (0, 1)
    assert len(refused(found)) == 1


def test_tries_count_and_a_get_does_not() -> None:
    with scripted(lambda path, body: Answer({}, 503) if path == "/x" else Answer(["well"])) as server:
        client = HttpClient(server.address, HttpOptions(requests_per_minute=2, max_limit_wait_s=0.1, tries=5), engine="test")
        assert [client.one(lambda: client.get("/health")) for _ in range(3)] == [["well"]] * 3
        with pytest.raises(RequestError, match="requests_per_minute"):
            client.one(lambda: client.post("/x", {}))
        client.close()
        assert [path for path, *_ in server.requests].count("/x") == 2


def test_cancelling_ends_the_wait() -> None:
    cancelled = threading.Event()
    with scripted(lambda path, body: Answer({})) as server:
        client = HttpClient(server.address, HttpOptions(requests_per_minute=1), engine="test")
        threading.Timer(0.2, cancelled.set).start()
        began = time.monotonic()
        assert client.run([lambda: client.post("/x", {})] * 3, cancelled) == []
        assert time.monotonic() - began < 2
        client.close()
