"""Calls are tokenised in parts, whole prompts at a time, and the first is computed while the others are tokenised."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest

from rewardmesh.client import sample
from rewardmesh.engine.loading import LoadedModel, load_model
from rewardmesh.engine.text import dialogue_ids, prompt_ids
from rewardmesh.reward import service
from rewardmesh.reward.preparing import PART, parts, prepare
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import reward_service_pb2 as api

STRICT = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system turns here') }}{% endif %}"
    "{{ '<|' + m['role'] + '|>' + m['content'] }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def questions(count: int, answers: int) -> list[pb.Sample]:
    return [sample(f"{q}-{a}", f"How many apples has child {q}?", f"{a} apples" * (a + 1)) for q in range(count) for a in range(answers)]


@pytest.mark.parametrize(("count", "answers"), [(0, 1), (1, 3), (20, 4), (3, 50), (100, 1)])
def test_parts_hold_whole_prompts(count: int, answers: int) -> None:
    samples = questions(count, answers)
    found = list(parts(samples))
    assert [one for part in found for one in part] == samples
    for part, after in itertools.pairwise(found):
        assert len(part) >= PART
        assert part[-1].prompt != after[0].prompt


def test_raw_samples_are_not_parted() -> None:
    raw = [sample(f"{i}", [], f"text {i}", tags={"template": "none"}) for i in range(100)]
    assert list(parts(raw)) == [raw]


@pytest.fixture(scope="module")
def loaded(make_model: Callable[..., Path]) -> LoadedModel:
    return load_model(make_model("classification"), "classification", name="m", version=1)


def test_ids_are_those_of_each_sample_alone(loaded: LoadedModel) -> None:
    samples = questions(5, 3)
    broken = sample("broken", "How many?", "")
    prepared = prepare(loaded, [*samples, broken], "service", "refuse")
    for one, ready in zip(samples, prepared, strict=False):
        ids = dialogue_ids(loaded.tokenizer, one.prompt, one.completion.text)
        assert ready.work.payload == ids
        assert ready.work.shared_tokens == len(prompt_ids(loaded.tokenizer, one.prompt))
    assert len({ready.work.group for ready in prepared[:-1]}) == 5
    assert prepared[-1].problem is not None
    assert prepared[-1].problem.reason == pb.ABSENCE_REASON_INVALID_INPUT


async def test_what_a_template_refuses_is_an_absence_of_that_sample_alone(
    serve: Callable[..., Any], make_model: Callable[..., Path]
) -> None:
    path = make_model("classification", seed=11)
    (path / "chat_template.jinja").write_text(STRICT)
    refused = sample("refused", [("system", "Be kind."), ("user", "Why?")], "Because.")
    async with serve(model=str(path)) as client:
        good, bad = (await client.reward.Score(api.ScoreRequest(samples=[sample("good", "Why?", "Because."), refused]))).outcomes
    assert good.HasField("reward")
    assert bad.absence.reason == pb.ABSENCE_REASON_INVALID_INPUT
    assert "no system turns here" in bad.absence.detail


async def test_the_first_part_is_computed_while_the_rest_is_tokenised(serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    computed = threading.Event()
    waited = []

    def slow(model: Any, samples: Sequence[pb.Sample], *others: Any) -> Any:
        if samples[0].id != "0-0":  # the second part is not tokenised before the first is computed
            waited.append(computed.wait(10))
        return prepare(model, samples, *others)

    right = LoadedModel.scores

    def scores(self: LoadedModel, sequences: Any) -> Any:
        found = right(self, sequences)
        computed.set()
        return found

    monkeypatch.setattr(service, "prepare", slow)
    async with serve() as client:
        monkeypatch.setattr(LoadedModel, "scores", scores)
        samples = questions(20, 4)
        outcomes = (await client.reward.Score(api.ScoreRequest(samples=samples))).outcomes
    assert waited == [True, True]
    assert [one.sample_id for one in outcomes] == [one.id for one in samples]
    assert all(one.HasField("reward") for one in outcomes)


async def test_a_refused_part_refuses_the_call(serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A part that finds the queue full: the call is refused as a whole, and what it had begun is withdrawn."""
    async with serve(max_queue_tokens=1500, cache_bytes=0) as client:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await asyncio.wait_for(client.reward.Score(api.ScoreRequest(samples=questions(400, 4)), timeout=60), 60)
        assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        outcomes = (await client.reward.Score(api.ScoreRequest(samples=questions(1, 2)))).outcomes
    assert all(one.HasField("reward") for one in outcomes)
