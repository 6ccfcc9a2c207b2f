"""HTTP requests and their lives: callers that go, time that runs out, too many at once, and a server that is told to stop."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from http_support import ONE, Running, body, http_gateway
from rewardmesh.gateway import Config, create_server
from rewardmesh.gateway.http.app import SERVICE


class Gate:
    """A backend's hook: calls wait until it is opened."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()

    async def __call__(self, request: Any, context: Any) -> None:
        self.reached.set()
        await self.opened.wait()


def requests_total(method: str, code: str) -> float:
    return REGISTRY.get_sample_value("rewardmesh_requests_total", {"service": SERVICE, "method": method, "code": code}) or 0.0


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what changes it has no event to wait for
            await asyncio.sleep(0.01)


async def test_a_caller_that_goes_ends_the_work(tmp_path: Path, backends: Any) -> None:
    gate = Gate()
    backend = await backends(gate)
    cancelled = requests_total("Evaluate", "CANCELLED")
    async with http_gateway(tmp_path, {"verifier": backend.address}, ONE) as gateway:
        asking = asyncio.create_task(gateway.http.post("/v1/evaluate", json=body("math=1")))
        await asyncio.wait_for(gate.reached.wait(), 10)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await eventually(lambda: backend.cancelled == 1)
        await eventually(lambda: requests_total("Evaluate", "CANCELLED") == cancelled + 1)


async def test_time_that_runs_out_is_an_absence_and_past_it_a_504(tmp_path: Path, backends: Any) -> None:
    backend = await backends(Gate())
    async with http_gateway(tmp_path, {"verifier": backend.address}, ONE) as gateway:
        response = await gateway.http.post("/v1/evaluate", json=body("math=1", timeout_seconds=0.5))
        [evaluation] = response.json()["evaluations"]
        assert (evaluation["value"], evaluation["absence"]["reason"], evaluation["absence"]["retryable"]) == (None, "DEADLINE", True)
        late = await gateway.http.post("/v1/evaluate", json=body("math=1", timeout_seconds=1e-7))
        assert (late.status_code, late.json()["error"]["code"]) == (504, "DEADLINE_EXCEEDED")


async def test_more_samples_than_there_is_room_for_are_refused_with_429(tmp_path: Path, backends: Any) -> None:
    gate = Gate()
    backend = await backends(gate)
    async with http_gateway(tmp_path, {"verifier": backend.address}, ONE, http_max_samples=3) as gateway:
        first = asyncio.create_task(gateway.http.post("/v1/evaluate", json=body("math=1", "math=0")))
        await asyncio.wait_for(gate.reached.wait(), 10)
        second = await gateway.http.post("/v1/evaluate", json=body("math=1", "math=0"))
        assert (second.status_code, second.headers["retry-after"]) == (429, "1")
        assert second.json()["error"]["retry_after_seconds"] == 1
        gate.opened.set()
        assert [each["value"] for each in (await first).json()["evaluations"]] == [1.0, 0.0]
        assert (await gateway.http.post("/v1/evaluate", json=body("math=1", "math=0"))).status_code == 200, "there is room again"
        never = await gateway.http.post("/v1/evaluate", json=body(*["math=1"] * 4))
        assert (never.status_code, "at most 3" in never.text) == (413, True)


async def test_an_overloaded_backend_is_an_absence_of_its_items(tmp_path: Path, everywhere: dict[str, str]) -> None:
    async with http_gateway(tmp_path, everywhere, ONE) as gateway:
        response = await gateway.http.post("/v1/evaluate", json=body("math=?", "math=1"))
        busy, well = response.json()["evaluations"]
        assert response.status_code == 200
        assert (busy["value"], busy["absence"]["reason"], busy["absence"]["retryable"]) == (None, "OVERLOADED", True)
        assert well["value"] == 1.0


async def test_many_requests_at_once_on_kept_connections(tmp_path: Path, everywhere: dict[str, str]) -> None:
    before = requests_total("Evaluate", "OK")
    async with http_gateway(tmp_path, everywhere, ONE) as gateway:
        replies = await asyncio.gather(*(gateway.http.post("/v1/evaluate", json=body(f"math={n / 100}")) for n in range(100)))
        assert [reply.json()["evaluations"][0]["value"] for reply in replies] == [n / 100 for n in range(100)]
        assert len({reply.headers["x-request-id"] for reply in replies}) == 100
    assert requests_total("Evaluate", "OK") == before + 100


async def test_a_server_that_stops_finishes_what_it_has(tmp_path: Path, backends: Any) -> None:
    gate = Gate()
    backend = await backends(gate)
    async with http_gateway(tmp_path, {"verifier": backend.address}, ONE, drain_seconds=10) as gateway:
        assert (await gateway.http.get("/healthz")).json() == {"status": "SERVING"}
        over_http = asyncio.create_task(gateway.http.post("/v1/evaluate", json=body("math=0.5")))
        await asyncio.wait_for(gate.reached.wait(), 10)
        stopping = asyncio.create_task(gateway.server.stop())
        await eventually(lambda: not _accepts(gateway.server.http_address))
        assert not stopping.done()
        gate.opened.set()
        response = await over_http
        assert (response.status_code, response.json()["evaluations"][0]["value"]) == (200, 0.5)
        await asyncio.wait_for(stopping, 10)


async def test_what_takes_longer_than_the_drain_is_cancelled(tmp_path: Path, backends: Any) -> None:
    gate = Gate()
    backend = await backends(gate)
    async with http_gateway(tmp_path, {"verifier": backend.address}, ONE, drain_seconds=0.2) as gateway:
        asking = asyncio.create_task(gateway.http.post("/v1/evaluate", json=body("math=0.5")))
        await asyncio.wait_for(gate.reached.wait(), 10)
        await asyncio.wait_for(gateway.server.stop(), 10)
        [ended] = await asyncio.gather(asking, return_exceptions=True)
        assert isinstance(ended, httpx.HTTPError) or (isinstance(ended, httpx.Response) and ended.status_code >= 500)


async def test_while_draining_the_health_check_says_so(tmp_path: Path, everywhere: dict[str, str]) -> None:
    async with http_gateway(tmp_path, everywhere, ONE) as gateway:
        await gateway.server._health.enter_graceful_shutdown()
        response = await gateway.http.get("/healthz")
        assert (response.status_code, response.json()) == (503, {"status": "NOT_SERVING"})


def _accepts(address: str) -> bool:
    host, _, port = address.partition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


async def test_a_port_that_is_taken_is_said_and_nothing_is_left_running(tmp_path: Path, everywhere: dict[str, str]) -> None:
    (tmp_path / "one.yaml").write_text(ONE)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        server = await create_server(Config(programs=[tmp_path], backends=everywhere, http_port=port))
        with pytest.raises(OSError, match=f"cannot serve HTTP on 127.0.0.1:{port}: Address already in use"):
            await server.start()
        await server.stop()


async def test_without_the_option_there_is_no_http(tmp_path: Path, everywhere: dict[str, str]) -> None:
    (tmp_path / "one.yaml").write_text(ONE)
    server = await create_server(Config(programs=[tmp_path], backends=everywhere))
    await server.start()
    assert not hasattr(server, "http_address")
    await server.stop()


async def test_a_process_serves_both_and_ends_with_0(tmp_path: Path, everywhere: dict[str, str]) -> None:
    (tmp_path / "one.yaml").write_text(ONE)
    flags = ["--programs", str(tmp_path), "--backends", f"verifier={everywhere['verifier']}", "--http-port", "0", "--log-format", "json"]
    command = [sys.executable, "-m", "rewardmesh.cli", "serve", "gateway", *flags]
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE, env=os.environ | {"COLUMNS": "200"})
    assert process.stderr
    try:
        addresses: dict[str, str] = {}
        while len(addresses) < 2:
            line = json.loads(await asyncio.wait_for(process.stderr.readline(), 60))
            if line["event"].startswith("serving"):
                addresses[line["event"]] = line["address"]
        url = f"http://{addresses['serving http']}/v1/evaluate"
        request = urllib.request.Request(url, json.dumps(body("math=0.25")).encode(), {"content-type": "application/json"})
        reply = await asyncio.to_thread(lambda: json.load(urllib.request.urlopen(request, timeout=20)))
        assert reply["evaluations"][0]["value"] == 0.25
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 20) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


TEXT = st.text(max_size=8)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
    max_leaves=8,
)
MESSAGE = st.fixed_dictionaries({"role": st.sampled_from(["user", "system", "tool", "me"]), "content": TEXT | ANYTHING})
SAMPLE = st.fixed_dictionaries(
    {"prompt": TEXT | st.lists(MESSAGE, max_size=2) | ANYTHING, "completion": st.sampled_from(["math=1", "math=?", "math=!"]) | ANYTHING},
    optional={
        "id": TEXT | ANYTHING,
        "group_id": TEXT,
        "references": ANYTHING,
        "tags": ANYTHING,
        "context": ANYTHING,
        "finish_reason": TEXT,
    },
)
BODY = st.fixed_dictionaries(
    {"samples": st.lists(SAMPLE, max_size=3) | ANYTHING},
    optional={"program": st.just("one") | ANYTHING, "timeout_seconds": st.just(5) | ANYTHING, "pins": ANYTHING, "other": ANYTHING},
)


@pytest.fixture
async def running(tmp_path: Path, everywhere: dict[str, str]) -> Any:
    async with http_gateway(tmp_path, everywhere, ONE) as gateway:
        yield gateway


async def test_no_body_is_a_fault_of_the_server(running: Running) -> None:
    loop = asyncio.get_running_loop()

    @settings(max_examples=150, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(BODY | ANYTHING, st.sampled_from(["/v1/evaluate", "/v1/select-best"]))
    def ask(content: Any, path: str) -> None:
        data = json.dumps(content).encode("utf-8", "surrogatepass")
        sent = running.http.post(path, content=data, headers={"content-type": "application/json"})
        response = asyncio.run_coroutine_threadsafe(sent, loop).result(20)
        reply = json.loads(response.text, parse_constant=lambda name: pytest.fail(f"{name} in a reply"))
        if response.status_code == 200:
            for each in reply["evaluations"]:
                assert (each["value"] is None) != (each["absence"] is None)
        else:
            assert response.status_code in (400, 404, 422, 504), response.text
            assert reply["error"]["message"]

    await asyncio.to_thread(ask)
