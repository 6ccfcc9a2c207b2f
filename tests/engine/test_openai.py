"""Labels out of listed tokens, text through ids, and what an endpoint that misbehaves comes to."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewardmesh.engine.http import HttpClient, RequestError
from rewardmesh.engine.loading import LoadError
from rewardmesh.engine.openai.endpoint import OpenAIOptions, completion_tokens, prompt_tokens
from rewardmesh.engine.openai.labels import listed_labels
from rewardmesh.engine.openai.text_tokens import TextTokenizer
from rewardmesh.engine.opening import open_model
from rewardmesh.engine.text import prompt_ids
from rewardmesh.judge import JudgeConfig
from rewardmesh.judge.labels import label_paths
from rewardmesh.judge.library import load_templates
from rewardmesh.serving.errors import ItemsLostError
from rewardmesh.v1 import common_pb2 as pb

from .scripted_server import Answer, scripted

tokenizer = TextTokenizer()
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
TURNS = st.lists(st.tuples(st.sampled_from(["system", "user", "assistant", "tool"]), TEXTS), min_size=1, max_size=4)


def read(listed: dict[str, float], labels: list[str], **options: Any) -> list[float] | pb.Absence:
    """Probabilities instead of log-probabilities, both ways."""
    pairs = [(text, math.log(p)) for text, p in listed.items()]
    found = listed_labels(pairs, labels, **({"exact": False, "tolerance": 0.01} | options))
    return found if isinstance(found, pb.Absence) else [math.exp(value) for value in found]


def test_labels_that_are_listed() -> None:
    assert read({"A": 0.5, "B": 0.25, "x": 0.2}, ["A", "B"]) == pytest.approx([0.5, 0.25])
    spelled = {"A": 0.5, " A": 0.1, "B\n": 0.25}
    assert read(spelled, ["A", "B"]) == pytest.approx([0.6, 0.25]), "white space does not matter"
    exact = read(spelled, ["A", "B"], exact=True)
    assert isinstance(exact, pb.Absence), "unless the token itself is meant"


def test_a_missing_label_is_never_taken_for_impossible() -> None:
    confident = read({"A": 0.99, "x": 0.004}, ["A", "B"])
    assert confident == pytest.approx([0.99, 0.003]), "half of what is left"
    vague = read({"A": 0.5, "x": 0.1}, ["A", "B"])
    assert isinstance(vague, pb.Absence)
    assert vague.reason == pb.ABSENCE_REASON_UNPARSABLE
    assert "'B'" in vague.detail
    neither = read({"x": 0.6, "y": 0.39}, ["A", "B"])
    assert isinstance(neither, pb.Absence)
    for none in (math.nan, math.inf, 5.0, 1e6):
        not_a_probability = listed_labels([("A", none)], ["A", "B"], exact=False, tolerance=0.01)
        assert isinstance(not_a_probability, pb.Absence)
        assert not_a_probability.reason == pb.ABSENCE_REASON_NON_FINITE


@pytest.mark.parametrize("count", [-1, 10**30, math.inf, math.nan, "many"])
def test_a_count_that_nobody_can_have_counted_is_charged_to_none(count: Any) -> None:
    client = HttpClient("http://127.0.0.1:9", OpenAIOptions(), engine="openai")
    for field, counted in {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}.items():
        with pytest.raises(RequestError, match="is not as expected"), client.reading("the answer"):
            counted({"usage": {field: count}})
    client.close()
    assert prompt_tokens({"usage": None}) == 0


@given(TEXTS)
def test_text_goes_through_ids_without_loss(text: str) -> None:
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert all(0 <= token < len(tokenizer) < 2**31 for token in ids)


@given(TURNS)
def test_dialogues_go_through_ids_without_loss(turns: list[tuple[str, str]]) -> None:
    # A marker inside a text would be a turn of its own; judges break such markers up before.
    messages = [{"role": role, "content": text.replace("<|", "< |")} for role, text in turns]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True)
    assert tokenizer.messages(ids) == messages


def test_labels_of_the_built_in_templates_are_single_tokens() -> None:
    templates, _ = load_templates([])
    for template in templates.values():
        assert [tokenizer.decode(path).strip() for path in label_paths(tokenizer, template.labels)] == list(template.labels)


class Endpoint:
    """What an OpenAI-compatible endpoint says; `change` alters its answer to chats."""

    def __init__(self, change: Answer | None = None) -> None:
        self.change = change

    def __call__(self, path: str, body: Any) -> Answer:
        if path == "/v1/models":
            return Answer({"data": [{"id": "gpt"}]})
        if self.change:
            return self.change
        listed = [{"token": token, "logprob": math.log(p)} for token, p in (("A", 0.7), ("B", 0.2))]
        return Answer({"choices": [{"logprobs": {"content": [{"top_logprobs": listed}]}}], "usage": {"prompt_tokens": 9}})


def config(address: str, **options: Any) -> JudgeConfig:
    return JudgeConfig(model="gpt", engine="openai", engine_address=address, engine_options={"tries": 1} | options)


def open_judge(settings: JudgeConfig) -> Any:
    return open_model(settings, "causal", "label_log_probs", path="gpt", version=1)


def test_a_question_as_messages_with_the_key_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "secret-value")
    question = prompt_ids(
        tokenizer, [pb.Message(role=pb.ROLE_SYSTEM, content="Be brief."), pb.Message(role=pb.ROLE_USER, content="A or B?")]
    )
    with scripted(Endpoint()) as server:
        model = open_judge(config(server.address, api_key_env="SOME_KEY", extra_body={"seed": 1}))
        [(values, tokens)] = model.label_log_probs([(question, tokenizer("A")["input_ids"] + tokenizer("B")["input_ids"])])
        model.close()
        path, body, headers = server.requests[-1]
    assert [math.exp(value) for value in values] == pytest.approx([0.7, 0.2])
    assert tokens == 9
    assert path == "/v1/chat/completions"
    assert body["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "A or B?"}]
    assert (body["model"], body["max_tokens"], body["top_logprobs"], body["seed"]) == ("gpt", 1, 20, 1)
    assert headers["Authorization"] == "Bearer secret-value"
    assert "secret-value" not in f"{model!r} {vars(model)} {model.reason}"


@pytest.mark.parametrize(
    ("answer", "reason", "retryable"),
    [
        (Answer({"error": {"message": "slow down"}}, 429, {"Retry-After": "30"}), pb.ABSENCE_REASON_OVERLOADED, True),
        (Answer("oops", 500), pb.ABSENCE_REASON_INFRASTRUCTURE, True),
        (Answer("slow down", 429, {"Retry-After": "nan"}), pb.ABSENCE_REASON_OVERLOADED, True),
        (Answer("slow down", 429, {"Retry-After": "1e999"}), pb.ABSENCE_REASON_OVERLOADED, True),
        (Answer("slow down", 503, {"Retry-After": "9" * 30}), pb.ABSENCE_REASON_OVERLOADED, True),
        (Answer("[" * 200_000), pb.ABSENCE_REASON_INFRASTRUCTURE, False),
        (Answer("[" * 200_000, 500), pb.ABSENCE_REASON_INFRASTRUCTURE, True),
        (Answer({"choices": []}), pb.ABSENCE_REASON_INFRASTRUCTURE, False),
        (Answer({"error": {"message": "who are you?"}}, 401), pb.ABSENCE_REASON_INFRASTRUCTURE, False),
    ],
)
def test_what_goes_wrong_later_is_an_absence(answer: Answer, reason: pb.AbsenceReason.ValueType, retryable: bool) -> None:
    endpoint = Endpoint()
    question = (prompt_ids(tokenizer, [pb.Message(role=pb.ROLE_USER, content="A or B?")]), [65])
    with scripted(endpoint) as server:
        model = open_judge(config(server.address))
        endpoint.change = answer
        with pytest.raises(ItemsLostError) as error:
            model.label_log_probs([question])
        model.close()
    [lost] = error.value.absences
    assert (lost.reason, lost.retryable) == (reason, retryable), lost


def test_an_endpoint_without_log_probabilities_is_refused() -> None:
    for answer in (Answer({"choices": [{"logprobs": None}]}), Answer({"error": {"message": "logprobs: unknown"}}, 400)):
        with scripted(Endpoint(answer)) as server, pytest.raises(LoadError, match="gives no label probabilities"):
            open_judge(config(server.address))
    with pytest.raises(LoadError, match="must begin with http"):
        open_judge(config("localhost:80"))
