"""Token rewards: their running sum is the score of the answer so far, wherever it is asked and with whatever it is computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast

from rewardmesh.client import CallFailed, Score, sample
from rewardmesh.engine.loading import LoadedModel, read_tokenizer
from rewardmesh.serving.raw import raw_sample
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import reward_service_pb2 as api

QUESTION = "How many apples does Ann have?"
SAMPLES = [
    sample("a", QUESTION, "12 + 7 = 19", group_id="q"),
    sample("b", QUESTION, "12 + 7 = 21. The answer is 21.", group_id="q"),
    sample("c", [("system", "Grade the answer."), ("user", "Which fox?")], "The quick brown fox"),
    sample("d", QUESTION, "Größe: 日本 fox"),
]
TOKENS = api.ScoreOptions(want=api.RewardWants(tokens=True))


def token_rewards(score: Score) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any] | None]:
    """(float64 [m], int64 [m, 2] or None)."""
    given = score.message.reward.tokens
    values = np.frombuffer(given.values.data, "<f4").astype(np.float64)
    if given.alignment == pb.TOKEN_ALIGNMENT_TOKEN_IDS:
        assert not given.HasField("character_offsets")
        return values, None
    assert given.alignment == pb.TOKEN_ALIGNMENT_CHARACTERS
    return values, np.frombuffer(given.character_offsets.data, "<i4").reshape(-1, 2).astype(np.int64)


def readings(path: Path, ids: Sequence[int]) -> torch.Tensor:
    """[len(ids), outputs] by transformers alone: every prefix scored by itself."""
    model = AutoModelForSequenceClassification.from_pretrained(path)
    with torch.inference_mode():
        return torch.stack([model(input_ids=torch.tensor([ids[:end]])).logits[0] for end in range(1, len(ids) + 1)])


def templated(path: Path, given: pb.Sample) -> list[int]:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(path)
    turns = [{"role": pb.Role.Name(m.role).removeprefix("ROLE_").lower(), "content": m.content} for m in given.prompt]
    turns.append({"role": "assistant", "content": given.completion.text})
    return list(tokenizer.apply_chat_template(turns, tokenize=True, return_dict=False))


async def test_the_running_sum_is_the_score_of_every_prefix(serve: Callable[..., Any], reward_model: Path) -> None:
    async with serve() as client:
        scores = await client.score(SAMPLES, options=TOKENS)
        plain = await client.score(SAMPLES)
    for given, score, whole in zip(SAMPLES, scores, plain, strict=True):
        values, offsets = token_rewards(score)
        expected = readings(reward_model, templated(reward_model, given))[:, 0].double().numpy()
        np.testing.assert_allclose(values.cumsum(), expected[-len(values) :], atol=1e-4)
        assert score.value == pytest.approx(values.sum(), abs=1e-5)
        assert score.value == pytest.approx(whole.value, abs=1e-6)
        assert offsets is not None
        text = given.completion.text
        assert offsets[0, 0] == 0
        assert offsets.max() == len(text)
        assert (np.diff(offsets[:, 0]) >= 0).all()
        covered = {place for start, end in offsets.tolist() for place in range(start, end)}
        assert {place for place, letter in enumerate(text) if letter.strip()} <= covered
        assert score.message.provenance.tokens_read == len(templated(reward_model, given))
    assert len(token_rewards(scores[0])[0]) < len(token_rewards(scores[1])[0])


@pytest.mark.parametrize("native", [True, False])
async def test_batch_invariant_to_the_bit(serve: Callable[..., Any], native: bool) -> None:
    """Where torch computes, a prompt's answers of a call are computed by themselves."""
    one, two, other, three = SAMPLES
    groups = [[one], [two], [other], [three]] if native else [[one, two, three], [other]]
    async with serve(batch_invariant=True, native=native, cache_bytes=0) as client:
        together = await client.score(SAMPLES, options=TOKENS)
        apart = {score.sample_id: score for group in groups for score in await client.score(group, options=TOKENS)}
        plain = await client.score(SAMPLES)
    for score, whole in zip(together, plain, strict=True):
        assert score.message.reward == apart[score.sample_id].message.reward
        assert (score.value == whole.value) if native else (score.value == pytest.approx(whole.value, abs=1e-6))


async def test_what_is_cached_without_tokens_is_no_answer_to_those_who_want_them(serve: Callable[..., Any]) -> None:
    async with serve() as client:
        await client.score(SAMPLES)
        first = await client.score(SAMPLES, options=TOKENS)
        again = await client.score(SAMPLES, options=TOKENS)
        plain = await client.score(SAMPLES)
    assert [score.provenance.cached for score in first] == [False] * 4
    assert [score.provenance.cached for score in again] == [True] * 4
    for one, other in zip(first, again, strict=True):
        assert one.message.reward == other.message.reward
    assert not any(score.message.reward.HasField("tokens") for score in plain)


async def test_a_vector_head_s_tokens_are_those_of_the_weighted_value(serve: Callable[..., Any], vector_model: Path) -> None:
    weights = {"x": 0.5, "z": -2.0}
    async with serve(model=str(vector_model), objectives=["x", "y", "z"]) as client:
        options = api.ScoreOptions(want=api.RewardWants(tokens=True), objective_weights=weights)
        (score,) = await client.score(SAMPLES[:1], options=options)
    values, _ = token_rewards(score)
    expected = readings(vector_model, templated(vector_model, SAMPLES[0])).double().numpy() @ [0.5, 0.0, -2.0]
    np.testing.assert_allclose(values.cumsum(), expected[-len(values) :], atol=2e-4)
    assert score.value == pytest.approx(values.sum(), abs=1e-4)
    assert len(score.objectives) == 3


async def test_raw_samples(serve: Callable[..., Any], reward_model: Path) -> None:
    """Of text: the code points of the text. Of ids: a reward for each of them."""
    tokenizer = read_tokenizer(str(reward_model))
    ids = tokenizer("The quick brown fox", add_special_tokens=False)["input_ids"]
    samples = [
        raw_sample("text", "The quick brown fox"),
        raw_sample("ids", "", token_ids=ids),
        raw_sample("after", " brown fox", prompt="The quick"),
    ]
    async with serve() as client:
        text, own, after = await client.score(samples, options=TOKENS)
    values, offsets = token_rewards(own)
    assert offsets is None
    np.testing.assert_allclose(values.cumsum(), readings(reward_model, ids)[:, 0].double().numpy(), atol=1e-4)
    of_text, places = token_rewards(text)
    np.testing.assert_allclose(of_text, values, atol=1e-4)
    assert places is not None
    assert (places[0, 0], places[-1, 1]) == (0, len("The quick brown fox"))
    part, places = token_rewards(after)
    np.testing.assert_allclose(part.cumsum(), of_text.cumsum()[-len(part) :], atol=1e-4)
    assert places is not None
    assert places[-1, 1] == len(" brown fox")


async def test_a_prompt_that_is_cut_leaves_the_answer_its_tokens(serve: Callable[..., Any], make_model: Callable[..., Path]) -> None:
    path = make_model("classification", max_position_embeddings=48)
    long = sample("long", "the quick brown fox jumps over the lazy dog " * 12, "12 + 7 = 19")
    async with serve(model=str(path), overlength="truncate_prompt") as client:
        (score,) = await client.score([long], options=TOKENS)
    assert score.provenance.truncated
    values, offsets = token_rewards(score)
    ids = templated(path, long)[-48:]
    np.testing.assert_allclose(values.cumsum(), readings(path, ids)[-len(values) :, 0].double().numpy(), atol=1e-4)
    assert offsets is not None
    assert offsets.max() == len("12 + 7 = 19")


async def test_an_answer_that_the_template_rewrites_has_no_token_rewards(
    serve: Callable[..., Any], reward_model: Path, tmp_path: Path
) -> None:
    """One that it only strips has them, for the code points of the answer as it was."""
    for name, template in (("lower", "{{ m.content | lower }}"), ("trim", "{{ m.content | trim }}")):
        path = tmp_path / name
        AutoModelForSequenceClassification.from_pretrained(reward_model).save_pretrained(path)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(reward_model)
        tokenizer.chat_template = "{% for m in messages %}" + template + " end{% endfor %}"
        tokenizer.save_pretrained(path)
    given = [sample("x", "q", "  The fox  ")]
    async with serve(model=str(tmp_path / "lower")) as client:
        (score,) = await client.score(given, options=TOKENS)
        (plain,) = await client.score(given)
    assert score.absence is not None
    assert score.absence.reason.value == "NOT_APPLICABLE"
    assert "rewrites the answer" in score.absence.detail
    assert plain.value is not None
    async with serve(model=str(tmp_path / "trim")) as client:
        (score,) = await client.score(given, options=TOKENS)
    _, offsets = token_rewards(score)
    assert offsets is not None
    assert offsets[0, 0] == 2
    assert score.value == pytest.approx(token_rewards(score)[0].sum(), abs=1e-5)


async def test_an_engine_that_scores_whole_answers_says_so(serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LoadedModel, "abilities", frozenset(("scores",)))
    async with serve() as client:
        assert list((await client.get_model()).capabilities.outputs) == ["value"]
        with pytest.raises(CallFailed) as error:
            await client.score(SAMPLES, options=TOKENS)
    assert error.value.code is grpc.StatusCode.UNIMPLEMENTED
    assert "options.want.tokens with the transformers engine" in error.value.details


async def test_a_stream_has_them_too(serve: Callable[..., Any]) -> None:
    async with serve() as client:
        call = client.reward.StreamScores(iter([api.StreamScoresRequest(options=TOKENS, samples=SAMPLES)]))
        streamed = {reply.outcome.sample_id: reply.outcome async for reply in call}
        asked = await client.score(SAMPLES, options=TOKENS)
    for score in asked:
        assert streamed[score.sample_id].reward.tokens == score.message.reward.tokens
