"""JSON over HTTP in front of a gateway: the same values as over gRPC, absences that are no zeros, refusals that name the field."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from http_support import ONE, Running, body, http_gateway
from rewardmesh.serving.http import shortest
from rewardmesh.v1 import mesh_service_pb2 as mesh

MIXED = """\
name: mixed
signals:
  correct: {verifier: math, timeout: 2.5}
  helpful: {reward: rm}
  graded: {judge: strict, mode: grade}
  wins: {judge: t, mode: compare, against: group}
reward: {sum: [{of: helpful, shape: {sigmoid: {centre: group}}, weight: 0.3}, {of: correct, weight: 0.7}, graded, wins]}
on_absence: {correct: drop, helpful: fallback(0.25)}
"""

Http = Callable[..., Awaitable[Running]]


@pytest.fixture
async def http(tmp_path: Path, everywhere: dict[str, str]) -> AsyncIterator[Http]:
    """http(program texts..., **config): starts a gateway with HTTP; gives clients of it."""
    async with AsyncExitStack() as stack:

        async def start(*programs: str, **config: Any) -> Running:
            return await stack.enter_async_context(http_gateway(tmp_path, everywhere, *programs, **config))

        yield start


TEXTS = ("math=1 rm=0.3 strict=0.5 t=1", "math=0 rm=-0.7 strict=0.25 t=2", "math=1 rm=? strict=1 t=2", "math=! rm=1 strict=1 t=0")


async def test_values_are_those_of_grpc_and_conform_to_the_document(http: Http, group: Any) -> None:
    gateway = await http(MIXED)
    client = gateway.http
    response = await client.post("/v1/evaluate", json=body(*TEXTS))
    assert response.status_code == 200, response.text
    got = response.json()
    samples = group("s", *TEXTS)
    for sample in samples:
        sample.prompt[0].content, sample.group_id = "Question?", "g"
    wanted = await gateway.stub.Evaluate(mesh.EvaluateRequest(samples=samples), timeout=10)
    assert got["program_fingerprint"] == wanted.program_fingerprint
    for mine, theirs in zip(got["evaluations"], wanted.evaluations, strict=True):
        assert mine["sample_id"] == theirs.outcome.sample_id
        if theirs.outcome.HasField("reward"):
            assert np.float32(mine["value"]) == np.float32(theirs.outcome.reward.value)
            assert (mine["absence"], mine["advice"]) == (None, None)
        else:
            assert mine["value"] is None
            assert mine["absence"]["detail"] == theirs.outcome.absence.detail
        for component in theirs.components:
            value = mine["components"][component.signal]["value"]
            assert (value is not None) == component.HasField("value")
            assert value is None or np.float32(value) == np.float32(component.value)
    [matrix] = got["groups"]
    assert matrix["sample_ids"] == ["s0", "s1", "s2", "s3"]
    assert [row[i] for i, row in enumerate(matrix["matrix"])] == [0.5] * 4
    document = (await client.get("/openapi.json")).json()
    reply = document["paths"]["/v1/evaluate"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    jsonschema.validate(got, {**reply, "components": document["components"]})


async def test_an_absent_value_is_null_with_a_reason(http: Http) -> None:
    client = (await http(MIXED)).http
    first, *_, last = (await client.post("/v1/evaluate", json=body(*TEXTS))).json()["evaluations"]
    assert first["absence"] is None
    assert last["value"] is None
    assert last["absence"] == {
        "reason": "UNPARSABLE",
        "detail": "correct: cannot be read",
        "retryable": False,
        "retry_after_seconds": None,
    }
    assert last["advice"] == "DROP"
    lost = last["components"]["correct"]
    assert (lost["value"], lost["applied"], lost["absence"]["reason"]) == (None, "DROP", "UNPARSABLE")


async def test_components_say_what_the_services_said(http: Http) -> None:
    client = (await http(MIXED)).http
    evaluations = (await client.post("/v1/evaluate", json=body(*TEXTS))).json()["evaluations"]
    components = evaluations[0]["components"]
    assert components["helpful"]["value"] == 0.3, "the shortest number that is the same float32"
    assert components["helpful"]["details"] == {"objectives": {"half": 0.15}}
    assert components["helpful"]["provenance"]["model"] == {"name": "rm", "version": 1, "fingerprint": ""}
    assert components["correct"]["details"]["evidence"] == "compared"
    assert components["wins"]["details"] == {"win_rate": components["wins"]["value"]}
    fallback = evaluations[2]["components"]["helpful"]
    assert (fallback["value"], fallback["applied"], fallback["absence"]["reason"]) == (0.25, "FALLBACK", "OVERLOADED")


async def test_ids_are_made_and_everything_else_travels(http: Http, backend: Any) -> None:
    client = (await http(ONE)).http
    sample = {
        "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 2?", "name": "Ann"}],
        "completion": "math=1",
        "references": ["4"],
        "tags": {"kind": "sum"},
        "finish_reason": "stop",
        "context": {"criteria": [{"id": "c", "text": "is right", "weight": 2}], "principles": ["short"], "notes": ["n"], "user_id": "u"},
    }
    got = (await client.post("/v1/evaluate", json={"samples": [sample, {"prompt": "?", "completion": "math=0.5"}]})).json()
    assert [(each["sample_id"], each["value"]) for each in got["evaluations"]] == [("0", 1.0), ("1", 0.5)]
    asked = next(request.samples[0] for request in backend.requests if request.samples[0].references)
    assert [(turn.role, turn.content, turn.name) for turn in asked.prompt] == [(1, "Be brief.", ""), (2, "2 + 2?", "Ann")]
    assert (dict(asked.tags), asked.completion.finish_reason) == ({"kind": "sum"}, 1)
    assert asked.context.criteria[0].weight == 2
    assert (list(asked.context.principles), list(asked.context.notes), asked.context.user_id) == (["short"], ["n"], "u")


async def test_programs_and_select_best(http: Http) -> None:
    client = (await http(ONE, MIXED)).http
    assert (await client.get("/v1/programs")).json() == {"programs": ["mixed", "one"]}
    mixed = (await client.get("/v1/programs/mixed")).json()
    assert mixed["yaml"] == MIXED
    assert mixed["signals"][0]["timeout_seconds"] == 2.5
    assert {each["name"]: each["fallback"] for each in mixed["signals"]} == {"correct": None, "helpful": 0.25, "graded": None, "wins": None}
    assert mixed["scale"]["kind"] == "BOUNDED"
    for name in ("three", "%ff", "%00", "a%2Fb", "%F0%9F%8D%8E", "x" * 5000):
        unknown = await client.get(f"/v1/programs/{name}")
        assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "NOT_FOUND")
    best = (await client.post("/v1/select-best", json=body("math=0.25", "math=0.75", "math=!", program="one"))).json()
    assert best["best_sample_id"] == "s1"
    none = (await client.post("/v1/select-best", json=body("math=!", program="one"))).json()
    assert none["best_sample_id"] is None


async def test_headers_go_through(http: Http, backend: Any) -> None:
    client = (await http(ONE)).http
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    headers = {"X-Request-Id": "r-1", "X-Tenant": "shop", "X-Priority": "interactive", "traceparent": trace}
    response = await client.post("/v1/evaluate", json=body("math=1"), headers=headers)
    assert response.headers["x-request-id"] == "r-1"
    seen = backend.metadata[-1]
    assert {key: seen[key] for key in ("x-request-id", "x-tenant", "x-priority")} == {
        "x-request-id": "r-1",
        "x-tenant": "shop",
        "x-priority": "interactive",
    }
    assert seen["traceparent"].split("-")[1] == trace.split("-")[1]
    await client.post("/v1/evaluate", json=body("math=1"))
    assert backend.metadata[-1].get("traceparent", "").split("-")[1:2] != [trace.split("-")[1]], "not the request's before it"
    assert backend.metadata[-1]["x-request-id"] != "r-1"


REFUSED: list[tuple[str, Any, int, str, str]] = [
    ("no JSON", b'{"samples": [', 400, "body is no JSON", ""),
    ("no UTF-8", b'{"samples": "\xff"}', 400, "body is no JSON", ""),
    ("NaN", b'{"samples": [], "timeout_seconds": NaN}', 422, "finite", "timeout_seconds"),
    ("nothing", b"", 400, "body is no JSON", ""),
    ("deep", b"[" * 100_000, 400, "body is no JSON", ""),
    ("a list", [], 422, "object", "body"),
    ("no samples", {}, 422, "required", "samples"),
    ("wrong type", {"samples": [{"prompt": "?", "completion": 4}]}, 422, "valid string", "samples[0].completion"),
    ("unknown field", {"samples": [{"prompt": "?", "completion": "a", "answer": "b"}]}, 422, "unknown field", "samples[0].answer"),
    (
        "unknown role",
        {"samples": [{"prompt": [{"role": "me", "content": ""}], "completion": ""}]},
        422,
        "'system'",
        "samples[0].prompt[0].role",
    ),
    ("no prompt", {"samples": [{"prompt": 4, "completion": ""}]}, 422, "text or a list of messages", "samples[0].prompt"),
    ("surrogate", b'{"samples": [{"prompt": "?", "completion": "\\ud800"}]}', 400, "body is no JSON", ""),
    ("negative time", {"samples": [], "timeout_seconds": -1}, 422, "greater than 0", "timeout_seconds"),
    ("endless time", {"samples": [], "timeout_seconds": 1e300}, 422, "less than", "timeout_seconds"),
    ("unknown program", body("math=1", program="two"), 404, "known: one", ""),
    ("other fingerprint", body("math=1", program_fingerprint="ab"), 400, "expects ab", ""),
    (
        "id twice",
        {"samples": [{"id": "1", "prompt": "?", "completion": "a"}, {"prompt": "?", "completion": "a"}]},
        400,
        "unique",
        "samples[1].id",
    ),
    ("pin", body("math=1", pins={"correct": {"version": 1}}), 400, "has no model to pin", "pins[correct]"),
]


@pytest.mark.parametrize(("content", "status", "message", "field"), [each[1:] for each in REFUSED], ids=[each[0] for each in REFUSED])
async def test_what_is_wrong_is_refused_and_named(http: Http, content: Any, status: int, message: str, field: str) -> None:
    client = (await http(ONE)).http
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    response = await client.post("/v1/evaluate", content=data, headers={"content-type": "application/json"})
    error = response.json()["error"]
    assert response.status_code == status, response.text
    assert message in error["message"]
    assert any(field in each["field"] for each in error["fields"]) or not field, error
    assert not any("options" in each["field"] for each in error["fields"])
    assert error["request_id"] == response.headers["x-request-id"]
    document = (await client.get("/openapi.json")).json()
    refusal = document["paths"]["/v1/evaluate"]["post"]["responses"]["default"]["content"]["application/json"]["schema"]
    jsonschema.validate(response.json(), {**refusal, "components": document["components"]})


async def test_other_refusals(http: Http) -> None:
    client = (await http(ONE, max_message_bytes=2000)).http
    large = await client.post("/v1/evaluate", json=body("x" * 3000))
    assert (large.status_code, "2000 bytes" in large.text) == (413, True)

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(30):
            yield b"x" * 100

    streamed = await client.post("/v1/evaluate", content=chunks(), headers={"content-type": "application/json"})
    assert streamed.status_code == 413
    form = await client.post("/v1/evaluate", data={"samples": "a"})
    assert (form.status_code, "application/json" in form.text) == (415, True)
    assert (await client.get("/v1/evaluate")).status_code == 405
    assert (await client.get("/v1/nothing")).status_code == 404
    priority = await client.post("/v1/evaluate", json=body("math=1"), headers={"x-priority": "soon"})
    assert (priority.status_code, "INTERACTIVE, TRAINING, BATCH" in priority.text) == (400, True)
    for name, value in (("x-tenant", "é".encode()), ("x-tenant", b"t" * 1000), ("x-request-id", b"a\tb")):
        refused = await client.post("/v1/evaluate", json=body("math=1"), headers={name.encode(): value})
        assert (refused.status_code, "printable ASCII" in refused.text) == (400, True)


async def test_the_page_needs_nothing_from_elsewhere(http: Http) -> None:
    client = (await http(ONE)).http
    page = await client.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "http://" not in page.text
    assert "https://" not in page.text
    for wanted in ("/v1/evaluate", "/v1/programs/{name}", "EvaluateBody", "timeout_seconds", "retry_after_seconds"):
        assert wanted in page.text
    document = (await client.get("/openapi.json")).json()
    for path in ("/v1/evaluate", "/v1/select-best"):
        content = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        jsonschema.validate(content["example"], {**content["schema"], "components": document["components"]})
        response = await client.post(path, json=content["example"] | {"timeout_seconds": 5})
        assert response.status_code == 200, response.text
    shapes = set(document["components"]["schemas"])
    referred = {each.rpartition("/")[2] for each in _references(document)}
    assert referred <= shapes
    assert {operation["operationId"] for path in document["paths"].values() for operation in path.values()} == {
        "Evaluate",
        "SelectBest",
        "ListPrograms",
        "DescribeProgram",
        "Check",
    }


def _references(node: Any) -> list[str]:
    if isinstance(node, dict):
        return [node[key] for key in ("$ref",) if key in node] + [found for value in node.values() for found in _references(value)]
    return [found for value in node for found in _references(value)] if isinstance(node, list) else []


@pytest.mark.parametrize("value", [0.3, 1 / 3, 3.4028234663852886e38, -1e-45, 0.0, 123456.79, 16777217.0])
def test_shortest_numbers_are_the_same_float32(value: float) -> None:
    got = shortest(float(np.float32(value)))
    assert got is not None
    assert np.float32(got) == np.float32(value)
    assert len(repr(got)) <= len(repr(float(np.float32(value))))
    assert shortest(float("nan")) is None
    assert shortest(float("-inf")) is None
