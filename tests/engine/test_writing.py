"""Texts of the engine in this process: stop texts, seeds, cancelling, grammars, and that packed models can write."""

from __future__ import annotations

import json
import threading
from typing import Any

import jsonschema_rs
import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from rewardmesh.demo.tokenizer import build_word_tokenizer
from rewardmesh.engine.constrained import Grammars
from rewardmesh.engine.interface import NotSupportedError
from rewardmesh.engine.loading import LoadedModel, load_model
from rewardmesh.engine.writing import ChoiceGrammar, JsonGrammar, WritingOptions, Written

from .conftest import Load

SCHEMA = {
    "type": "object",
    "properties": {
        "reason": {"type": "string", "maxLength": 12},
        "verdict": {"enum": ["A", "B", "tie"]},
        "grades": {"type": "array", "items": {"type": "integer", "minimum": 1, "maximum": 5}, "minItems": 1, "maxItems": 3},
    },
    "required": ["reason", "verdict", "grades"],
    "additionalProperties": False,
}
JSON = JsonGrammar(json.dumps(SCHEMA, sort_keys=True))
CHOICE = ChoiceGrammar(("A", "B", "A and B", 'say "no"\\', "köstlich"))
PROMPTS = ["Ann has 12 apples and buys 7 more.", "Which answer is better, A or B?"]


@pytest.fixture(scope="module", params=[True, False], ids=["native", "torch"])
def model(request: pytest.FixtureRequest, load: Load) -> LoadedModel:
    return load("causal", "qwen2", native=request.param)


def write(model: LoadedModel, prompts: list[str] | None = None, keys: list[str] | None = None, **options: Any) -> list[list[Written]]:
    asked = PROMPTS if prompts is None else prompts
    ids = [model.tokenizer(text)["input_ids"] for text in asked]
    return model.write(ids, WritingOptions(**({"max_tokens": 16} | options)), row_keys=keys or [str(n) for n in range(len(asked))])


def test_texts_of_each_prompt_in_order(model: LoadedModel) -> None:
    assert "write" in model.abilities
    assert model.packed, "what a judge reads labels with must write too"
    found = write(model, n=3)
    assert [len(texts) for texts in found] == [3, 3]
    for prompt, texts in zip(PROMPTS, found, strict=True):
        assert [text.tokens_read for text in texts] == [len(model.tokenizer(prompt)["input_ids"]), 0, 0]
        assert all(text.finish in ("length", "stop") and 1 <= text.tokens_written <= 16 for text in texts)
        assert len({text.text for text in texts}) > 1
    assert write(model, prompts=[]) == []


def test_a_seed_fixes_a_text_whatever_it_is_written_with(model: LoadedModel) -> None:
    both = write(model, n=2, seed=5)
    alone = write(model, PROMPTS[1:], ["1"], n=2, seed=5)
    assert [text.text for text in alone[0]] == [text.text for text in both[1]]
    assert write(model, n=2, seed=6) != both
    greedy = write(model, n=2, temperature=0, seed=1)
    assert greedy == write(model, n=2, temperature=0, seed=2)
    assert len({text.text for text in greedy[0]}) == 1


def test_writing_leaves_the_packed_model_as_it_is(model: LoadedModel) -> None:
    question = (model.tokenizer(PROMPTS[1])["input_ids"], [40, 41])
    before = model.label_log_probs([question])
    write(model)
    assert model.label_log_probs([question]) == before


def test_stop_texts_and_control_tokens_are_not_in_the_text(model: LoadedModel) -> None:
    [whole], _ = write(model, max_tokens=40, seed=3)
    stop = whole.text[10:12]
    [cut], _ = write(model, max_tokens=40, seed=3, stop=("never to be seen", stop))
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert cut.finish == "stop"
    assert cut.tokens_written < whole.tokens_written
    ended = [text for texts in write(model, n=16, max_tokens=200, seed=1, temperature=2.0) for text in texts if text.finish == "stop"]
    assert ended
    assert not any("<eos>" in text.text or "<|" in text.text for text in ended)
    with pytest.raises(ValueError, match="must not be empty"):
        write(model, stop=("",))


def test_cancelled_texts_are_aborted(model: LoadedModel) -> None:
    cancelled = threading.Event()
    cancelled.set()
    [[text]] = model.write([[5, 6]], WritingOptions(), row_keys=["a"], cancelled=cancelled)
    assert (text.finish, text.text) == ("aborted", "")


def test_a_prompt_without_room_is_refused(model: LoadedModel) -> None:
    with pytest.raises(ValueError, match="no room"):
        model.write([[5] * model.max_tokens], WritingOptions(), row_keys=["a"])
    [[text]] = model.write([[5] * (model.max_tokens - 1)], WritingOptions(), row_keys=["a"])
    assert text.tokens_written == 1


@pytest.mark.parametrize("temperature", [0.0, 1.0, 1.5])
def test_a_model_of_noise_writes_only_what_the_grammar_lets_it(model: LoadedModel, temperature: float) -> None:
    n = 12 if temperature else 1
    words = [text for texts in write(model, n=n, temperature=temperature, grammar=CHOICE) for text in texts]
    assert {text.finish for text in words} == {"stop"}
    assert {text.text for text in words} <= set(CHOICE.words)
    documents = [text for texts in write(model, n=n, temperature=temperature, grammar=JSON, max_tokens=150) for text in texts]
    assert {text.finish for text in documents} == {"stop"}
    for text in documents:
        jsonschema_rs.validate(SCHEMA, json.loads(text.text))
    if temperature:
        assert len({text.text for text in words}) > 1
        assert len({text.text for text in documents}) > 1


def test_a_document_that_is_cut_off_says_so(model: LoadedModel) -> None:
    for texts in write(model, n=3, grammar=JSON, max_tokens=5):
        assert {text.finish for text in texts} == {"length"}


def test_the_grammar_keeps_what_the_model_prefers_among_what_it_allows(model: LoadedModel) -> None:
    """Two words of one token each come as often as their probabilities, divided by their sum, say."""
    a, b = (model.tokenizer.convert_tokens_to_ids(word) for word in ("A", "B"))
    ids = model.tokenizer(PROMPTS[1])["input_ids"]
    [([log_a, log_b], _)] = model.label_log_probs([(ids, [a, b])])
    expected = 1 / (1 + 2.718281828 ** (log_b - log_a))
    [texts] = model.write([ids], WritingOptions(n=1500, grammar=ChoiceGrammar(("A", "B"))), row_keys=["a"])
    share = sum(text.text == "A" for text in texts) / len(texts)
    assert share == pytest.approx(expected, abs=4 * (expected * (1 - expected) / len(texts)) ** 0.5 + 1e-9)


@pytest.mark.parametrize(
    ("grammar", "message"),
    [
        (JsonGrammar("{"), "is no JSON"),
        (JsonGrammar("[]"), "must be a JSON object"),
        (JsonGrammar('{"type": "fruit"}'), "fruit"),
        (ChoiceGrammar(()), "must be different and not empty"),
        (ChoiceGrammar(("A", "")), "must be different and not empty"),
        (ChoiceGrammar(("A", "A")), "must be different and not empty"),
    ],
)
def test_a_grammar_that_is_none_is_refused(model: LoadedModel, grammar: Any, message: str) -> None:
    with pytest.raises(NotSupportedError, match=message):
        write(model, grammar=grammar)


def test_a_grammar_that_cannot_be_followed_further_is_no_end(model: LoadedModel) -> None:
    grammars = Grammars(model.tokenizer, model.vocabulary, model.eos_ids)
    follower = grammars.follower(JSON)
    allowed = np.zeros(model.vocabulary, dtype=np.bool_)
    follower.allow(allowed)
    assert 0 < allowed.sum() < model.vocabulary
    assert follower.take(int(np.flatnonzero(~allowed)[-1])) == "length"
    again = np.zeros(model.vocabulary, dtype=np.bool_)
    grammars.follower(JSON).allow(again)
    assert (again == allowed).all(), "others begin anew"


def test_several_threads_write_and_read_at_a_time(model: LoadedModel) -> None:
    alone = write(model, n=2, seed=9, grammar=JSON, max_tokens=60)
    found: list[Any] = [None] * 4
    read = model.label_log_probs([([5, 6, 7], [40])])

    def work(index: int) -> None:
        if index % 2:
            found[index] = [model.label_log_probs([([5, 6, 7], [40])]) for _ in range(20)]
        else:
            found[index] = write(model, n=2, seed=9, grammar=JSON, max_tokens=60)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] == found[2] == alone
    assert found[1] == found[3] == [read] * 20


def test_a_classification_model_does_not_write(load: Load) -> None:
    model = load("classification", "qwen2")
    assert "write" not in model.abilities


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """A model whose tokenizer writes whole words, which llguidance cannot read."""
    tokenizer = build_word_tokenizer(["Which answer is better ? first second equally good", "the first answer"])
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = AutoConfig.for_model("qwen2", vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id, **sizes)
    path = tmp_path_factory.mktemp("words")
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return load_model(path, "causal", name="words", version=1)


def test_choices_by_whole_words(words: LoadedModel) -> None:
    grammar = ChoiceGrammar((" first", " second", " equally good", " equally", "7 12"))
    found = [text for texts in write(words, n=40, grammar=grammar) for text in texts]
    assert {text.finish for text in found} == {"stop"}
    assert {text.text for text in found} == set(grammar.words)


@pytest.mark.parametrize(
    ("grammar", "message"),
    [
        (ChoiceGrammar((" first", " third")), "no tokens for ' third'"),
        (ChoiceGrammar(("1" * 5000 + " third",)), "no tokens for"),
        (JSON, "choices among words work"),
    ],
)
def test_what_whole_words_cannot_write_is_refused(words: LoadedModel, grammar: Any, message: str) -> None:
    with pytest.raises(NotSupportedError, match=message):
        write(words, grammar=grammar)
