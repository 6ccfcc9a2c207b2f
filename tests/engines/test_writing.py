"""What real engines write under a grammar is of it, and all engines read the same verdict out of the same weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from benchmarks.judges.engines import CHAT, label_probabilities, verdict_differences

from rewardmesh.engine.config import ModelServerConfig
from rewardmesh.engine.interface import ServedModel
from rewardmesh.engine.opening import open_model
from rewardmesh.engine.text import prompt_ids
from rewardmesh.engine.writing import ChoiceGrammar, JsonGrammar, WritingOptions, Written
from rewardmesh.serving.errors import ItemsLostError
from rewardmesh.v1 import common_pb2 as pb

from .asking import QUESTION
from .conftest import KV_CACHE_BYTES, TOLERANCE, EngineProcess, VllmProcess

pytestmark = [pytest.mark.engines, pytest.mark.slow, pytest.mark.timeout(600)]

SCHEMA = {
    "type": "object",
    "properties": {
        "reason": {"type": "string", "maxLength": 12},
        "verdict": {"enum": ["A", "B", "tie"]},
        "grade": {"type": "integer", "minimum": 1, "maximum": 5},
    },
    "required": ["reason", "verdict", "grade"],
    "additionalProperties": False,
}
WORDS = ("A", "B", "A or B")
N = 16
Servers = dict[str, VllmProcess]


def opened(server: VllmProcess, model: Path, engine: Any) -> ServedModel:
    name, _, api = engine.partition(" ")
    options = {"api": api, "structured": "vllm", "served_model_name": str(model)} if api else {}
    config = ModelServerConfig(model=str(model), engine=name, engine_address=server.address, engine_options=options)
    return open_model(config, "causal", "write", path=str(model), version=1)


def prompts(model: ServedModel) -> list[list[int]]:
    return [prompt_ids(model.tokenizer, [pb.Message(role=pb.ROLE_USER, content=text)]) for text in (QUESTION, "Which is better?")]


def check(words: list[Written], documents: list[Written]) -> None:
    assert len(words) == len(documents) == 2 * N
    assert {text.finish for text in words} == {"stop"}
    assert {text.text for text in words} <= set(WORDS)
    assert len({text.text for text in words}) > 1
    assert {text.finish for text in documents} == {"stop"}
    for text in documents:
        jsonschema_rs.validate(SCHEMA, json.loads(text.text))
    assert len({text.text for text in documents}) > N


@pytest.mark.parametrize("engine", ["vllm-server", "openai chat", "openai completions"])
def test_a_server_writes_what_the_grammar_lets_it(vllm_servers: Servers, causal_dir: Path, engine: str) -> None:
    model = opened(vllm_servers["causal"], causal_dir, engine)

    def write(**options: Any) -> list[list[Written]]:
        return model.write(prompts(model), WritingOptions(**options), row_keys=["a", "b"])

    try:
        words = [text for texts in write(n=N, grammar=ChoiceGrammar(WORDS)) for text in texts]
        documents = [text for texts in write(n=N, max_tokens=150, seed=3, grammar=JsonGrammar(json.dumps(SCHEMA))) for text in texts]
        check(words, documents)
        plain = write(n=2, max_tokens=30, seed=1)
        assert write(n=2, max_tokens=30, seed=1) == plain, "a seed fixes it"
        for texts in plain:
            assert texts[0].tokens_read > 0
            assert sum(text.tokens_written for text in texts) > 0
        [whole], _ = write(max_tokens=30, temperature=0)
        stop = whole.text[3:5]
        [cut], _ = write(max_tokens=30, temperature=0, stop=(stop,))
        assert (cut.text, cut.finish) == (whole.text[: whole.text.index(stop)], "stop")
        with pytest.raises(ItemsLostError, match="answered 400"):
            write(grammar=JsonGrammar('{"type": "fruit"}'))
    finally:
        model.close()


def test_vllm_on_this_machine_writes_what_the_grammar_lets_it(vllm_python: Path, causal_dir: Path, tokenizer: Any, tmp_path: Path) -> None:
    ids = [prompt_ids(tokenizer, [pb.Message(role=pb.ROLE_USER, content=text)]) for text in (QUESTION, "Which is better?")]
    greedy = {"options": {"max_tokens": 30, "temperature": 0}}
    cases: dict[str, Any] = {
        "engine_options": {"kv_cache_gib": KV_CACHE_BYTES / 2**30, "enforce_eager": True, "max_num_batched_tokens": 2048},
        "prompts": ids,
        "cases": [
            {"options": {"n": N}, "words": WORDS},
            {"options": {"n": N, "max_tokens": 150, "seed": 3}, "json": json.dumps(SCHEMA)},
            greedy,
        ],
    }
    asked, answered = tmp_path / "cases.json", tmp_path / "answers.json"
    asked.write_text(json.dumps(cases))
    script = Path(__file__).with_name("local_writing.py")
    process = EngineProcess(tmp_path / "log", vllm_python, script, causal_dir, asked, answered, VLLM_ENABLE_V1_MULTIPROCESSING="0")
    process.wait_until(answered.exists)
    process.process.wait(60)
    words, documents, plain = ([[Written(**text) for text in texts] for texts in case] for case in json.loads(answered.read_text()))
    check([text for texts in words for text in texts], [text for texts in documents for text in texts])
    here = open_model(ModelServerConfig(model=str(causal_dir)), "causal", "write", path=str(causal_dir), version=1)
    assert plain == here.write(ids, WritingOptions(max_tokens=30, temperature=0), row_keys=["0", "1"])


def test_verdicts_are_the_same_whoever_computes(vllm_servers: Servers, causal_dir: Path) -> None:
    questions = [f"{QUESTION} A: {n} B: {2 * n}. Which answer is better, A or B?" for n in range(8)]
    found = label_probabilities(causal_dir, vllm_servers["causal"].address, questions, ["A", "B"])
    differences = verdict_differences(found)
    assert set(differences) == {"vllm-server", "openai completions", CHAT}
    assert max(differences.values()) < TOLERANCE, differences
    assert found[CHAT].min() > 0.01, "a judge that has something to say"
    assert found[CHAT][:, 0].std() > 10 * TOLERANCE, "questions that it answers differently"
