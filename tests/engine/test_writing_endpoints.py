"""Texts that endpoints write: what they are asked, what their answers come to, what they are not asked."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rewardmesh.engine.config import ModelServerConfig
from rewardmesh.engine.foreign import RefusedError
from rewardmesh.engine.interface import NotSupportedError, ServedModel
from rewardmesh.engine.loading import LoadError
from rewardmesh.engine.openai.text_tokens import TextTokenizer
from rewardmesh.engine.opening import open_model
from rewardmesh.engine.text import prompt_ids
from rewardmesh.engine.writing import ChoiceGrammar, JsonGrammar, WritingOptions, Written
from rewardmesh.serving.errors import ItemsLostError
from rewardmesh.v1 import common_pb2 as pb

from .scripted_server import Answer, scripted

JSON = JsonGrammar('{"type":"object"}')
CHOICE = ChoiceGrammar(("A", "B"))
IDS = prompt_ids(TextTokenizer(), [pb.Message(role=pb.ROLE_USER, content="Which?")])


class Endpoint:
    """A chat endpoint; `texts` answers requests for texts, `labels` those for log-probabilities."""

    def __init__(self, texts: Callable[[Any], Answer] | None = None, labels: Answer | None = None) -> None:
        listed = [{"token": token, "logprob": math.log(p)} for token, p in (("A", 0.7), ("B", 0.2))]
        self.labels = labels or Answer({"choices": [{"logprobs": {"content": [{"top_logprobs": listed}]}}]})
        self.texts = texts or (lambda body: choices(*["text"] * body.get("n", 1)))

    def __call__(self, path: str, body: Any) -> Answer:
        if path == "/v1/models":
            return Answer({"data": [{"id": "gpt"}]})
        return self.labels if body.get("logprobs") else self.texts(body)


def choices(*texts: str, finish: str = "stop", written: int = 0) -> Answer:
    found = [{"index": n, "message": {"content": text}, "finish_reason": finish} for n, text in enumerate(texts)]
    return Answer({"choices": found[::-1], "usage": {"prompt_tokens": 11, "completion_tokens": written}})


def open_endpoint(address: str, *, ability: Any = "write", **options: Any) -> ServedModel:
    settings = ModelServerConfig(model="gpt", engine="openai", engine_address=address, engine_options={"tries": 1} | options)
    return open_model(settings, "causal", ability, path="gpt", version=1)


def write(endpoint: Endpoint, options: WritingOptions, keys: tuple[str, ...] = ("a",), **settings: Any) -> tuple[Any, list[Any]]:
    """What comes of as many prompts as keys, and the bodies of the requests."""
    with scripted(endpoint) as server:
        model = open_endpoint(server.address, **settings)
        before = len(server.requests)
        try:
            return model.write([IDS] * len(keys), options, row_keys=keys), [body for _, body, _ in server.requests[before:]]
        finally:
            model.close()


def test_what_is_asked_and_what_comes() -> None:
    endpoint = Endpoint(lambda body: choices("good. END more", "bad", written=7))
    options = WritingOptions(n=2, temperature=0.5, top_p=0.9, max_tokens=30, stop=("END",))
    [texts], [body] = write(endpoint, options, max_tokens_field="max_completion_tokens", extra_body={"user": "x"})
    assert texts == [Written("good. ", "stop", 11, 4), Written("bad", "stop", 0, 3)], "in the order of their index; counted in equal parts"
    assert body["messages"] == [{"role": "user", "content": "Which?"}]
    assert {name: body[name] for name in ("n", "temperature", "top_p", "stop", "user")} == {
        "n": 2,
        "temperature": 0.5,
        "top_p": 0.9,
        "stop": ["END"],
        "user": "x",
    }
    assert body["max_completion_tokens"] == 30
    assert "max_tokens" not in body
    assert 0 <= body["seed"] < 2**31


def test_seeds_differ_by_prompt_and_stay_the_same() -> None:
    _, bodies = write(Endpoint(), WritingOptions(), ("a", "b"))
    _, again = write(Endpoint(), WritingOptions(), ("a", "b"))
    assert len({body["seed"] for body in bodies}) == 2
    assert {body["seed"] for body in bodies} == {body["seed"] for body in again}


@pytest.mark.parametrize("reason", ["length", "content_filter", None])
def test_what_did_not_stop_by_itself_is_cut_off(reason: Any) -> None:
    [[text]], _ = write(Endpoint(lambda body: choices("half", finish=reason)), WritingOptions())
    assert (text.text, text.finish) == ("half", "length")


def test_an_endpoint_that_writes_fewer_texts_is_asked_for_the_rest() -> None:
    [texts], bodies = write(Endpoint(lambda body: choices("one", written=5)), WritingOptions(n=3))
    assert [body["n"] for body in bodies] == [3, 2, 1]
    assert len({body["seed"] for body in bodies}) == 3
    assert texts == [Written("one", "stop", 11, 5)] * 3, "each request reads the prompt"


@pytest.mark.parametrize(
    ("grammar", "structured", "field", "value"),
    [
        (JSON, "response_format", "response_format", "json_schema"),
        (JSON, "vllm", "structured_outputs", '{"type":"object"}'),
        (CHOICE, "vllm", "structured_outputs", '["A", "B"]'),
    ],
)
def test_grammars_by_the_endpoint(grammar: Any, structured: str, field: str, value: str) -> None:
    _, [body] = write(Endpoint(), WritingOptions(grammar=grammar), structured=structured)
    assert value in json.dumps(body[field]).replace('\\"', '"')


@pytest.mark.parametrize(
    ("grammar", "structured", "remedy"),
    [(CHOICE, "response_format", "set vllm where"), (JSON, "none", "set vllm or response_format"), (CHOICE, "none", "set vllm where")],
)
def test_grammars_that_the_endpoint_is_not_said_to_follow(grammar: Any, structured: str, remedy: str) -> None:
    with pytest.raises(RefusedError, match=remedy) as error:
        write(Endpoint(), WritingOptions(grammar=grammar), ("a", "b"), structured=structured)
    assert [lost.reason for lost in error.value.absences] == [pb.ABSENCE_REASON_NOT_APPLICABLE] * 2
    with pytest.raises(NotSupportedError, match="is no JSON"):
        write(Endpoint(), WritingOptions(grammar=JsonGrammar("{")), structured=structured)


def test_a_lost_prompt_leaves_the_others_their_texts() -> None:
    answers = iter([Answer({"error": {"message": "slow down"}}, 429, {"Retry-After": "40"}), choices("fine")])
    lock = threading.Lock()

    def one_fails(body: Any) -> Answer:
        with lock:
            return next(answers)

    with pytest.raises(ItemsLostError) as error:
        write(Endpoint(one_fails), WritingOptions(), ("a", "b"))
    [lost] = error.value.absences
    assert (lost.reason, lost.retry_after.seconds) == (pb.ABSENCE_REASON_OVERLOADED, 40)
    assert [Written("fine", "stop", 11, 0)] in error.value.results


@pytest.mark.parametrize("body", [{"choices": []}, {"choices": [{"text": "x"}]}, {"choices": None}, [], "text"])
def test_answers_that_make_no_sense(body: Any) -> None:
    with pytest.raises(ItemsLostError) as error:
        write(Endpoint(lambda _: Answer(body)), WritingOptions())
    assert [lost.reason for lost in error.value.absences] == [pb.ABSENCE_REASON_INFRASTRUCTURE]


def test_a_null_text_is_empty() -> None:
    [[text]], _ = write(
        Endpoint(lambda body: Answer({"choices": [{"message": {"content": None}, "finish_reason": "stop"}]})), WritingOptions()
    )
    assert text == Written("", "stop", 0, 0)


def test_cancelling_breaks_off() -> None:
    cancelled = threading.Event()
    with scripted(Endpoint(lambda body: Answer({}, delay_s=2.0))) as server:
        model = open_endpoint(server.address)
        threading.Timer(0.1, cancelled.set).start()
        began = time.monotonic()
        texts = model.write([IDS, IDS], WritingOptions(n=2), row_keys=["a", "b"], cancelled=cancelled)
        assert time.monotonic() - began < 1.5
        model.close()
    assert {text.finish for prompt in texts for text in prompt} == {"aborted"}
    assert [len(prompt) for prompt in texts] == [2, 2]


@pytest.mark.parametrize("answer", [Answer({"choices": [{"logprobs": None}]}), Answer({"error": {"message": "logprobs: unknown"}}, 400)])
def test_an_endpoint_without_log_probabilities_can_still_write(answer: Answer) -> None:
    with scripted(Endpoint(labels=answer)) as server:
        model = open_endpoint(server.address)
        assert model.abilities == {"write"}
        assert "gives no label probabilities" in model.reason
        model.close()
        with pytest.raises(LoadError, match=r"offers write, this service needs label_log_probs.*gives no label probabilities"):
            open_endpoint(server.address, ability="label_log_probs")


@pytest.mark.parametrize(("exact", "expected"), [(False, [0.7, 0.2]), (True, [0.6, 0.2])])
def test_spellings_of_a_label_count_unless_it_must_be_exact(exact: bool, expected: list[float]) -> None:
    listed = [{"token": token, "logprob": math.log(p)} for token, p in (("A", 0.6), (" A", 0.1), ("B", 0.2))]
    with scripted(Endpoint(labels=Answer({"choices": [{"logprobs": {"content": [{"top_logprobs": listed}]}}]}))) as server:
        model = open_endpoint(server.address, exact_labels=exact)
        [(values, _)] = model.label_log_probs([(IDS, [model.tokenizer(label)["input_ids"][0] for label in ("A", "B")])])
        model.close()
    assert [math.exp(value) for value in values] == pytest.approx(expected)


@pytest.mark.parametrize("status", [401, 403, 500])
def test_an_endpoint_that_does_not_let_us_in_is_refused(status: int) -> None:
    with scripted(Endpoint(labels=Answer({"error": {"message": "no"}}, status))) as server, pytest.raises(LoadError, match=f"{status}: no"):
        open_endpoint(server.address)


def test_texts_by_completions(make_model: Callable[..., Path]) -> None:
    path = make_model("causal")

    def script(where: str, body: Any) -> Answer:
        if where == "/v1/models":
            return Answer({"data": [{"id": "ours"}]})
        if body.get("logprobs"):
            return Answer({"error": "logprobs are off"}, 400)
        return Answer({"choices": [{"index": 0, "text": "yes", "finish_reason": "stop"}], "usage": {"completion_tokens": 2}})

    with scripted(script) as server:
        options = {"api": "completions", "served_model_name": "ours", "structured": "vllm"}
        settings = ModelServerConfig(model=str(path), engine="openai", engine_address=server.address, engine_options=options)
        model = open_model(settings, "causal", "write", path=str(path), version=1)
        assert model.abilities == {"write"}
        [[text]] = model.write([[5] * 250], WritingOptions(max_tokens=100, grammar=CHOICE), row_keys=["a"])
        assert text == Written("yes", "stop", 0, 2)
        body = server.requests[-1][1]
        with pytest.raises(ValueError, match="no room"):
            model.write([[5] * 256], WritingOptions(), row_keys=["a"])
        assert model.write([], WritingOptions(), row_keys=[]) == []
        model.close()
    assert (body["prompt"], body["max_tokens"], body["structured_outputs"]) == ([5] * 250, 6, {"choice": ["A", "B"]})


def test_texts_of_a_vllm_server(make_model: Callable[..., Path], tokenizer: Any) -> None:
    path = make_model("causal")
    told = tokenizer("yes. END")["input_ids"]

    def script(where: str, body: Any) -> Answer:
        if where == "/v1/models":
            return Answer({"data": [{"id": "tiny", "root": str(path), "max_model_len": 64}]})
        if not body.get("return_token_ids"):
            top = {f"token_id:{token}": -math.log(5) for token in range(5)}
            return Answer({"choices": [{"index": 0, "logprobs": {"top_logprobs": [top]}}]})
        if body["prompt"] == [13]:
            return Answer({"error": {"message": "busy"}}, 429, {"Retry-After": "60"})
        return Answer({"choices": [{"index": 0, "token_ids": [*told, 1], "finish_reason": "stop"}]})

    with scripted(script) as server:
        settings = ModelServerConfig(model=str(path), engine="vllm-server", engine_address=server.address, engine_options={"tries": 1})
        model = open_model(settings, "causal", "write", path=str(path), version=1)
        options = WritingOptions(n=2, max_tokens=100, stop=("END",), grammar=JSON, seed=4)
        with pytest.raises(ItemsLostError) as error:
            model.write([[13], [5, 6]], options, row_keys=["a", "b"])
        bodies = [body for _, body, _ in server.requests if body and body["prompt"] == [5, 6]]
        with pytest.raises(ValueError, match="must not be empty"):
            model.write([[5]], WritingOptions(stop=("",)), row_keys=["a"])
        cancelled = threading.Event()
        cancelled.set()
        [[text]] = model.write([[5]], WritingOptions(), row_keys=["a"], cancelled=cancelled)
        model.close()
    lost, texts = error.value.results
    assert (lost.reason, lost.retry_after.seconds) == (pb.ABSENCE_REASON_OVERLOADED, 60)
    assert texts == [Written("yes. ", "stop", 2, len(told) + 1), Written("yes. ", "stop", 0, len(told) + 1)]
    assert text.finish == "aborted"
    assert len({body["seed"] for body in bodies}) == 2, "a row has a seed of its own"
    assert [(body["n"], body["max_tokens"], body["stop"], body["structured_outputs"]) for body in bodies] == [
        (1, 62, ["END"], {"json": JSON.schema})
    ] * 2
