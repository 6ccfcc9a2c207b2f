"""OpenRLHF's and vLLM's protocols in front of real reward servers and a real gateway, over real sockets."""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2 as httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY
from transformers import PreTrainedTokenizerFast

from rewardmesh import gateway, reward, verifier
from rewardmesh.adapters.http_shims import ShimConfig, shim_app
from rewardmesh.adapters.http_shims.scoring import Scorer
from rewardmesh.client import AsyncClient, sample
from rewardmesh.serving import Server
from rewardmesh.serving.http import HttpListener
from rewardmesh.serving.raw import raw_sample

PROMPT = "How many apples does Ann have?"
ANSWERS = ["12 + 7 = 19", "The answer is 21.", "The quick brown fox"]
PROGRAM = """\
name: both
signals: {correct: {verifier: math}, helpful: {reward: tiny}}
reward: {sum: [{of: correct, weight: 0.7}, {of: helpful, shape: {sigmoid: {centre: group}}, weight: 0.3}]}
"""


@dataclass
class Shim:
    """A running shim: a client of its HTTP, and one of the reward service behind it."""

    http: httpx.AsyncClient
    service: AsyncClient


Start = Callable[..., Awaitable[Shim]]


@asynccontextmanager
async def running(server: Server) -> AsyncIterator[str]:
    await server.start()
    try:
        yield server.address
    finally:
        await server.stop()


@pytest.fixture
async def start(reward_model: Path) -> AsyncIterator[Start]:
    """start(model=..., target=..., **config): a shim over a reward server of a model, or over another target."""
    async with AsyncExitStack() as stack:

        async def begin(*, model: Path = reward_model, target: str = "", **config: Any) -> Shim:
            if not target:
                fields: dict[str, Any] = {"model": str(model), "name": "tiny", "drain_seconds": 2.0}
                target = await stack.enter_async_context(running(await reward.create_server(reward.RewardConfig(**fields))))
            shim_fields: dict[str, Any] = {"target": target, "port": 0, "timeout_seconds": 20.0, "drain_seconds": 2.0} | config
            settings = ShimConfig(**shim_fields)
            scorer = Scorer(settings)
            stack.push_async_callback(scorer.close)
            listener = HttpListener(shim_app(settings, scorer), host="127.0.0.1", port=0, drain_seconds=2.0)
            await listener.start()
            stack.push_async_callback(listener.stopped)
            client = httpx.AsyncClient(base_url=f"http://{listener.address}", timeout=30)
            return Shim(await stack.enter_async_context(client), await stack.enter_async_context(AsyncClient(target)))

        yield begin


@pytest.fixture
def template(reward_model: Path) -> Callable[..., str]:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(reward_model)

    def apply(*turns: tuple[str, str], generation: bool = False) -> str:
        text: str = tokenizer.apply_chat_template(
            [{"role": role, "content": content} for role, content in turns], tokenize=False, add_generation_prompt=generation
        )
        return text

    return apply


async def values(shim: Shim, samples: list[Any]) -> list[float]:
    scores = await shim.service.score(samples)
    assert all(score.value is not None for score in scores), scores
    return [score.value or 0.0 for score in scores]


def same(got: Any, wanted: Any) -> None:
    np.testing.assert_allclose(np.array(got, np.float64), np.array(wanted, np.float64), atol=1e-6)


async def test_get_reward_is_the_score_of_the_text_as_it_is(start: Start, template: Callable[..., str]) -> None:
    shim = await start()
    queries = [template(("user", PROMPT), ("assistant", answer)) for answer in ANSWERS]
    prompts = [template(("user", PROMPT), generation=True)] * 3
    wanted = await values(shim, [sample(str(i), PROMPT, answer) for i, answer in enumerate(ANSWERS)])
    for body in ({"query": queries}, {"query": queries, "prompts": prompts, "labels": ["19", None, ""]}):
        response = await shim.http.post("/get_reward", json=body)
        assert response.status_code == 200, response.text
        same(response.json()["rewards"], wanted)
        assert response.json()["scores"] == response.json()["rewards"]
        assert response.json()["extra_logs"] == {}
    other = await shim.http.post("/get_reward", json={"query": queries, "prompts": ["another text"] * 3, "datasources": [1, 2, 3]})
    same(other.json()["rewards"], wanted)
    one = await shim.http.post("/get_reward", json={"query": queries[1]})
    same(one.json()["rewards"], wanted[1:2])
    assert (await shim.http.post("/get_reward", json={"query": []})).json() == {"rewards": [], "scores": [], "extra_logs": {}}


async def test_extra_logs_hold_the_objectives(start: Start, make_model: Any) -> None:
    shim = await start(model=make_model("classification", num_labels=3))
    reply = (await shim.http.post("/get_reward", json={"query": ANSWERS})).json()
    scores = await shim.service.score([raw_sample(str(i), text) for i, text in enumerate(ANSWERS)])
    same(reply["rewards"], [score.value for score in scores])
    assert len(reply["extra_logs"]) == 3
    for name, logged in reply["extra_logs"].items():
        same(logged, [score.objectives[name] for score in scores])


async def test_absences_refuse_the_whole_call(start: Start) -> None:
    shim = await start()
    hopeless = await shim.http.post("/get_reward", json={"query": ["well", "", "x " * 3000]})
    error = hopeless.json()["error"]
    assert (hopeless.status_code, "2 of 3 scores are absent" in error["message"]) == (422, True)
    assert [(each["field"], each["problem"].partition(":")[0]) for each in error["fields"]] == [
        ("query[1]", "INVALID_INPUT"),
        ("query[2]", "TOO_LONG"),
    ]
    pairs = await shim.http.post("/score", json={"text_1": "?", "text_2": ["a", ""]})
    assert (pairs.status_code, pairs.json()["error"]["fields"][0]["field"]) == (422, "text_2[1]")


async def test_a_service_that_is_away_is_a_503_to_ask_again(start: Start) -> None:
    shim = await start(target="127.0.0.1:1", timeout_seconds=1.0)
    response = await shim.http.post("/get_reward", json={"query": ["a", "b"]})
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (503, "UNAVAILABLE")
    assert int(response.headers["retry-after"]) >= 1
    assert error["fields"][0]["field"] == "query[0]"
    assert "INFRASTRUCTURE" in error["fields"][0]["problem"] or "DEADLINE" in error["fields"][0]["problem"]
    assert (await shim.http.get("/health")).status_code == 503


async def test_nan_when_asked_for(start: Start) -> None:
    shim = await start(on_absence="nan")
    text = (await shim.http.post("/get_reward", json={"query": ["well", ""]})).text
    assert "NaN" in text
    reply = json.loads(text)  # as Python's trainers read it
    assert math.isfinite(reply["rewards"][0])
    assert math.isnan(reply["rewards"][1])
    assert reply["extra_logs"]["absent"] == [0.0, 1.0]
    score = json.loads((await shim.http.post("/score", json={"text_1": "?", "text_2": ["a", ""]})).text)
    assert [math.isnan(each["score"]) for each in score["data"]] == [False, True]


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


async def test_score_as_vllm_answers(start: Start) -> None:
    shim = await start()
    raw = await values(shim, [sample(str(i), PROMPT, answer) for i, answer in enumerate(ANSWERS)])
    for first, second in (("text_1", "text_2"), ("queries", "documents"), ("queries", "items"), ("data_1", "data_2")):
        reply = (await shim.http.post("/score", json={first: PROMPT, second: ANSWERS})).json()
        same([each["score"] for each in reply["data"]], [sigmoid(value) for value in raw])
    assert set(reply) == {"id", "object", "created", "model", "data", "usage"}
    assert (reply["object"], reply["model"]) == ("list", "tiny")
    assert [(each["index"], each["object"]) for each in reply["data"]] == [(0, "score"), (1, "score"), (2, "score")]
    assert reply["usage"]["prompt_tokens"] == reply["usage"]["total_tokens"] > 0
    plain = (await shim.http.post("/v1/score", json={"text_1": [PROMPT] * 3, "text_2": ANSWERS, "use_activation": False})).json()
    same([each["score"] for each in plain["data"]], raw)


async def test_classify_as_vllm_answers(start: Start, make_model: Any, template: Callable[..., str]) -> None:
    shim = await start(model=make_model("classification", num_labels=3))
    scores = await shim.service.score([raw_sample(str(i), text, template="tokenizer") for i, text in enumerate(ANSWERS)])
    reply = (await shim.http.post("/classify", json={"model": "tiny", "input": ANSWERS})).json()
    assert set(reply) == {"id", "object", "created", "model", "data", "usage"}
    for each, score in zip(reply["data"], scores, strict=True):
        logits = np.array(list(score.objectives.values()))
        same(each["probs"], np.exp(logits) / np.exp(logits).sum())
        assert each["num_classes"] == 3
        assert each["label"] == list(score.objectives)[int(logits.argmax())]
    raw = (await shim.http.post("/classify", json={"input": ANSWERS[0], "use_activation": False})).json()["data"][0]
    same(raw["probs"], list(scores[0].objectives.values()))
    dialogue = [{"role": "user", "content": PROMPT}, {"role": "assistant", "content": ANSWERS[0]}]
    text = template(("user", PROMPT), ("assistant", ANSWERS[0]))
    by_messages = (await shim.http.post("/classify", json={"messages": dialogue})).json()["data"][0]
    by_text = (await shim.http.post("/classify", json={"input": text, "add_special_tokens": False})).json()["data"][0]
    same(by_messages["probs"], by_text["probs"])


async def test_classify_token_ids(start: Start, reward_model: Path) -> None:
    shim = await start()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(reward_model)
    rows = [tokenizer(text)["input_ids"] for text in ANSWERS]
    by_text = (await shim.http.post("/classify", json={"input": ANSWERS})).json()["data"]
    by_ids = (await shim.http.post("/classify", json={"input": rows})).json()["data"]
    alone = (await shim.http.post("/classify", json={"input": rows[0]})).json()["data"]
    assert [each["label"] for each in by_text] == [None] * 3
    same([each["probs"] for each in by_ids], [each["probs"] for each in by_text])
    same(alone[0]["probs"], by_text[0]["probs"])
    [raw] = await values(shim, [raw_sample("0", ANSWERS[0], template="tokenizer")])
    same(by_text[0]["probs"], [sigmoid(raw)])


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/get_reward", {}, 422, "query"),
        ("/get_reward", {"query": [1]}, 422, "query"),
        ("/get_reward", {"query": ["a"], "prompts": ["b", "c"]}, 422, "prompts: 2 for 1 queries"),
        ("/get_reward", {"query": ["a"], "labels": []}, 422, "labels: 0 for 1 queries"),
        ("/score", {"text_1": "a"}, 400, "send text_1 and text_2"),
        ("/score", {"text_1": "a", "documents": ["b"]}, 400, "send text_1 and text_2"),
        ("/score", {"text_1": ["a", "b"], "text_2": ["c", "d", "e"]}, 400, "2 for 3"),
        ("/score", {"text_1": "a", "text_2": []}, 400, "text_2: is empty"),
        ("/score", {"text_1": "a", "text_2": [{"type": "image_url"}]}, 422, "text_2"),
        ("/score", {"text_1": "a", "text_2": "b", "model": "other"}, 404, "known: tiny"),
        ("/classify", {}, 422, "either input or messages"),
        ("/classify", {"input": []}, 400, "input: is empty"),
        ("/classify", {"input": [10**12]}, 422, "no token id"),
        ("/classify", {"input": [[-1]]}, 422, "is no token of the model"),
        ("/classify", {"messages": [{"role": "user", "content": "a"}]}, 422, "must end with the assistant's answer"),
        ("/classify", {"messages": [{"role": "me", "content": "a"}, {"role": "assistant", "content": "b"}]}, 422, "unknown role 'me'"),
    ],
)
async def test_what_is_wrong_is_refused(start: Start, path: str, body: Any, status: int, message: str) -> None:
    shim = await start()
    response = await shim.http.post(path, json=body)
    assert response.status_code == status, response.text
    assert message in response.text


WORDS = st.text(max_size=6)
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS,
    lambda inner: st.lists(inner) | st.dictionaries(WORDS, inner),
    max_leaves=6,
)
TEXTS = WORDS | st.lists(WORDS, max_size=3) | ANY
TURNS = st.lists(st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "me"]), "content": WORDS}), max_size=3)
FLAGS = {"use_activation": st.booleans() | st.none(), "model": st.sampled_from(["tiny", "", "x"]) | ANY}
BODIES = st.one_of(
    st.tuples(st.just("/get_reward"), st.fixed_dictionaries({"query": TEXTS}, optional={"prompts": TEXTS, "labels": ANY})),
    st.tuples(st.just("/score"), st.fixed_dictionaries({"text_1": TEXTS, "text_2": TEXTS}, optional=FLAGS)),
    st.tuples(
        st.just("/classify"),
        st.fixed_dictionaries(
            {},
            optional={"input": TEXTS | st.lists(st.lists(st.integers(-1, 500), max_size=4), max_size=2), "messages": TURNS | ANY} | FLAGS,
        ),
    ),
)


async def test_no_body_is_a_fault_of_the_server(start: Start) -> None:
    shim = await start()
    loop = asyncio.get_running_loop()

    @settings(max_examples=150, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(BODIES)
    def ask(asked: tuple[str, Any]) -> None:
        data = json.dumps(asked[1]).encode("utf-8", "surrogatepass")
        sent = shim.http.post(asked[0], content=data, headers={"content-type": "application/json"})
        response = asyncio.run_coroutine_threadsafe(sent, loop).result(20)
        json.loads(response.text, parse_constant=lambda name: pytest.fail(f"{name} in a reply"))
        assert response.status_code in (200, 400, 404, 422), response.text

    await asyncio.to_thread(ask)


async def test_parallel_requests_are_merged_into_batches(start: Start) -> None:
    shim = await start()

    def batches() -> float:
        return REGISTRY.get_sample_value("rewardmesh_batch_items_count", {"service": "rewardmesh.v1.RewardService"}) or 0.0

    await shim.http.post("/get_reward", json={"query": ["warm"]})
    before = batches()
    texts = [f"{number} + {number} = {2 * number}. The answer is {2 * number}." for number in range(64)]
    replies = await asyncio.gather(*(shim.http.post("/get_reward", json={"query": [text]}) for text in texts))
    assert 0 < batches() - before < 64
    wanted = await values(shim, [raw_sample(str(i), text) for i, text in enumerate(texts)])
    same([reply.json()["rewards"][0] for reply in replies], wanted)


async def test_a_gateway_s_program_with_labels_as_references(start: Start, reward_model: Path, tmp_path: Path) -> None:
    (tmp_path / "both.yaml").write_text(PROGRAM)
    async with AsyncExitStack() as stack:
        checks: dict[str, Any] = {"workers": 1, "drain_seconds": 2.0}
        model: dict[str, Any] = {"model": str(reward_model), "name": "tiny", "drain_seconds": 2.0}
        backends = {
            "verifier": await stack.enter_async_context(running(await verifier.create_server(verifier.VerifierConfig(**checks)))),
            "reward": await stack.enter_async_context(running(await reward.create_server(reward.RewardConfig(**model)))),
        }
        config: dict[str, Any] = {"programs": [tmp_path], "backends": backends, "drain_seconds": 2.0}
        target = await stack.enter_async_context(running(await gateway.create_server(gateway.GatewayConfig(**config))))
        shim = await start(target=target, behind="gateway", name="both")
        prompt = "<|user|>12 + 7?<|assistant|>"
        body: dict[str, Any] = {"query": [prompt + "#### 19", prompt + "#### 21"], "prompts": [prompt] * 2, "labels": ["19", 19]}
        reply = (await shim.http.post("/get_reward", json=body)).json()
        assert reply["extra_logs"]["correct"] == [1.0, 0.0]
        async with AsyncClient(backends["reward"]) as client:
            scores = await client.score([raw_sample(str(i), text) for i, text in enumerate(body["query"])])
            raw = [score.value or 0.0 for score in scores]
        same(reply["extra_logs"]["helpful"], raw)
        centred = [value - sum(raw) / len(raw) for value in raw]  # queries of one prompt are a group
        same(reply["rewards"], [0.7 * right + 0.3 * sigmoid(value) for right, value in zip((1, 0), centred, strict=True)])
        unlabelled = await shim.http.post("/get_reward", json={"query": ["19"]})
        assert (unlabelled.status_code, "NOT_APPLICABLE" in unlabelled.text) == (422, True)


async def test_the_command(start: Start) -> None:
    shim = await start()
    flags = ["--reward", shim.service.target, "--port", "0", "--metrics-port", "0", "--log-format", "json"]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "rewardmesh.cli", "shim", *flags), stderr=asyncio.subprocess.PIPE, env=os.environ | {"COLUMNS": "200"}
    )
    assert process.stderr
    events: dict[str, Any] = {}
    try:
        while "shim" not in events:
            line = json.loads(await asyncio.wait_for(process.stderr.readline(), 60))
            events[line["event"]] = line
        async with httpx.AsyncClient(base_url=events["shim"]["url"], timeout=20) as client:
            reply = await client.post("/get_reward", json={"query": ANSWERS})
            same(reply.json()["rewards"], await values(shim, [raw_sample(str(i), text) for i, text in enumerate(ANSWERS)]))
            assert (await client.get("/health")).status_code == 200
            assert "/get_reward" in (await client.get("/docs")).text
            metrics = (await client.get(f"http://{events['serving metrics']['address']}/metrics")).text
            assert 'rewardmesh_requests_total{code="OK",method="GetReward",service="rewardmesh.http.Shim"} 1.0' in metrics
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 20) == 0
        last = json.loads((await process.stderr.read()).splitlines()[-1])
        assert (last["event"], last["calls"], last["scores"], last["absent"]) == ("stopped", 1, 3, 0)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.parametrize("flags", [[], ["--reward", "a:1", "--gateway", "b:1"], ["--reward", "a:1", "--program", "p"]])
async def test_the_command_refuses_what_does_not_go_together(flags: list[str]) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "rewardmesh.cli", "shim", *flags), stderr=asyncio.subprocess.PIPE
    )
    _, said = await process.communicate()
    assert process.returncode == 2
    assert b"--reward" in said
