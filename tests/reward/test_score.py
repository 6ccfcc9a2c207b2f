"""Scores equal the model's own; what is wrong with one sample is its absence, what is wrong with the call a status."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
import torch
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast

from rewardmesh.client import AsyncClient, CallFailed, sample
from rewardmesh.engine.loading import LoadError
from rewardmesh.reward import RewardConfig, create_server
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import reward_service_pb2 as api

SAMPLES = [
    sample("a", "How many apples does Ann have?", "12 + 7 = 19", group_id="q"),
    sample("b", "How many apples does Ann have?", "The answer is 21.", group_id="q"),
    sample("c", [("system", "Grade the answer."), ("user", "Which fox?")], "The quick brown fox"),
    sample("d", "How many apples does Ann have?", "12 + 7 = 19"),
]


def plain_scores(path: Path, samples: Sequence[pb.Sample]) -> torch.Tensor:
    """[n, outputs] by transformers alone."""
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(path), PreTrainedTokenizerFast.from_pretrained(path)
    rows = []
    for one in samples:
        turns = [{"role": pb.Role.Name(m.role).removeprefix("ROLE_").lower(), "content": m.content} for m in one.prompt]
        turns.append({"role": "assistant", "content": one.completion.text})
        ids = tokenizer.apply_chat_template(turns, tokenize=True, return_dict=False)
        with torch.inference_mode():
            rows.append(model(input_ids=torch.tensor([ids])).logits[0])
    return torch.stack(rows)


async def score(client: AsyncClient, samples: Sequence[pb.Sample], **options: Any) -> list[pb.Outcome]:
    reply = await client.reward.Score(api.ScoreRequest(samples=samples, options=api.ScoreOptions(**options)))
    assert [outcome.sample_id for outcome in reply.outcomes] == [one.id for one in samples]
    return list(reply.outcomes)


async def refused(client: AsyncClient, code: grpc.StatusCode, samples: Sequence[pb.Sample] = SAMPLES, **options: Any) -> str:
    with pytest.raises(CallFailed) as error:
        await client.score(samples, options=api.ScoreOptions(**options))
    assert error.value.code is code
    return error.value.details


def reason(outcome: pb.Outcome) -> str:
    assert outcome.WhichOneof("result") == "absence", outcome
    return pb.AbsenceReason.Name(outcome.absence.reason).removeprefix("ABSENCE_REASON_")


async def test_scores_equal_the_model_s_own(serve: Callable[..., Any], reward_model: Path) -> None:
    expected = plain_scores(reward_model, SAMPLES)[:, 0]
    assert expected.std() > 0.1
    async with serve() as client:
        outcomes = await score(client, SAMPLES)
    for outcome, value in zip(outcomes, expected.tolist(), strict=True):
        assert outcome.reward.value == pytest.approx(value, abs=1e-4)
        assert outcome.reward.scale.kind == pb.SCALE_KIND_LOGIT
        assert not outcome.reward.objectives


async def test_where_a_score_came_from(serve: Callable[..., Any]) -> None:
    async with serve(replica="here") as client:
        a, b, *_ = [outcome.provenance for outcome in await score(client, SAMPLES)]
    assert (a.service, a.replica, a.model.name, a.model.version) == ("rewardmesh.v1.RewardService", "here", "tiny", 1)
    assert len(a.model.fingerprint) == 16
    assert 0 < b.tokens_computed < b.tokens_read, "the prompt was computed for the first"
    assert a.tokens_computed == a.tokens_read
    assert not a.truncated
    assert a.compute_seconds > 0


async def test_what_shares_a_group_id_without_a_prompt_is_not_mixed_up(serve: Callable[..., Any], reward_model: Path) -> None:
    samples = [sample("a", "12 + 7", "19", group_id="g"), sample("b", "A quick fox", "jumps", group_id="g")]
    async with serve() as client:
        values = [outcome.reward.value for outcome in await score(client, samples)]
    assert values == pytest.approx(plain_scores(reward_model, samples)[:, 0].tolist(), abs=1e-4)


async def test_a_vector_head(serve: Callable[..., Any], vector_model: Path) -> None:
    expected = plain_scores(vector_model, SAMPLES)
    names = ["helpful", "honest", "terse"]
    async with serve(model=str(vector_model), objectives=names, scale="unit") as client:
        for outcome, row in zip(await score(client, SAMPLES), expected, strict=True):
            assert [one.name for one in outcome.reward.objectives] == names
            assert [one.value for one in outcome.reward.objectives] == pytest.approx(row.tolist(), abs=1e-4)
            assert outcome.reward.value == pytest.approx(float(row.mean()), abs=1e-4)
            assert {one.scale.kind for one in outcome.reward.objectives} == {pb.SCALE_KIND_UNIT}
        weights = {"honest": 2.0, "terse": -1.0}
        weighted = await score(client, SAMPLES, objective_weights=weights, want=api.RewardWants(objectives=True))
        for outcome, row in zip(weighted, expected, strict=True):
            assert outcome.reward.value == pytest.approx(float(2 * row[1] - row[2]), abs=1e-4)
        model = await client.get_model()
        assert list(model.capabilities.objectives) == names
        assert list(model.capabilities.outputs) == ["value", "objectives", "tokens"]
        details = await refused(client, grpc.StatusCode.INVALID_ARGUMENT, objective_weights={"helpfull": 1.0})
        assert "options.objective_weights[helpfull]: unknown objective; known: helpful, honest, terse" in details
        details = await refused(client, grpc.StatusCode.INVALID_ARGUMENT, objective_weights={"honest": math.nan})
        assert "options.objective_weights[honest]: nan is not finite" in details


async def test_configured_weights(serve: Callable[..., Any], vector_model: Path) -> None:
    expected = plain_scores(vector_model, SAMPLES[:1])[0]
    async with serve(model=str(vector_model), objectives=["a", "b", "c"], objective_weights={"a": 1, "c": 0.5}) as client:
        [outcome] = await score(client, SAMPLES[:1])
    assert outcome.reward.value == pytest.approx(float(expected[0] + 0.5 * expected[2]), abs=1e-4)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"objectives": ["a", "b"]}, "2 names given, the head has 3 outputs"),
        ({"objective_weights": {"helpful": 1.0}}, "'helpful' is no objective; known: LABEL_0"),
    ],
)
async def test_objectives_that_do_not_fit_the_head(vector_model: Path, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(LoadError, match=words):
        await create_server(RewardConfig(model=str(vector_model), **settings))


async def test_a_scalar_head_has_no_objectives(serve: Callable[..., Any]) -> None:
    async with serve() as client:
        assert "known: none" in await refused(client, grpc.StatusCode.INVALID_ARGUMENT, objective_weights={"helpful": 1.0})


@pytest.mark.parametrize("want", ["spread", "quantiles", "spans", "rationale", "embedding"])
async def test_what_is_not_done_yet_says_so(serve: Callable[..., Any], want: str) -> None:
    async with serve() as client:
        details = await refused(client, grpc.StatusCode.UNIMPLEMENTED, want=api.RewardWants(**{want: True}))
    assert details == f"options.want.{want} is not implemented by this service yet"


async def test_other_options_that_are_not_done_yet(serve: Callable[..., Any]) -> None:
    async with serve() as client:
        assert "log-ratio" in await refused(client, grpc.StatusCode.UNIMPLEMENTED, reference_policy=pb.ModelRef(name="p"))
        assert "samples_per_item" in await refused(client, grpc.StatusCode.UNIMPLEMENTED, samples_per_item=4)


async def test_models_that_are_not_there(serve: Callable[..., Any]) -> None:
    async with serve() as client:
        details = await refused(client, grpc.StatusCode.NOT_FOUND, model=pb.ModelRef(name="other"))
        assert "no model named 'other'; known: tiny" in details
        assert "'9'; known: 1" in await refused(client, grpc.StatusCode.NOT_FOUND, model=pb.ModelRef(name="tiny", version=9))
        details = await refused(client, grpc.StatusCode.FAILED_PRECONDITION, model=pb.ModelRef(fingerprint="0" * 16))
        assert "has fingerprint" in details


async def test_an_empty_batch(serve: Callable[..., Any]) -> None:
    async with serve() as client:
        assert await score(client, []) == []


async def test_ids_must_be_there_and_unique(serve: Callable[..., Any]) -> None:
    async with serve() as client:
        for samples, words in (([SAMPLES[0], SAMPLES[0]], "samples[1].id: 'a' is already"), ([pb.Sample()], "samples[0].id: must not be")):
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await client.reward.Score(api.ScoreRequest(samples=samples))
            assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert words in (error.value.details() or "")


async def test_bad_samples_are_absent_and_the_others_unharmed(serve: Callable[..., Any], reward_model: Path) -> None:
    unset = pb.Sample(id="role", prompt=[pb.Message(content="x")], completion=pb.Completion(text="y"))
    unknown = pb.Sample(id="new role", prompt=[pb.Message(content="x", role=99)], completion=pb.Completion(text="y"))  # type: ignore[arg-type]
    bad = [sample("empty", "2 + 2", ""), pb.Sample(id="no prompt", completion=pb.Completion(text="y")), unset, unknown]
    bad.append(sample("long", "2 + 2", "1 " * 400))
    async with serve() as client:
        outcomes = await score(client, [SAMPLES[0], *bad, SAMPLES[1]])
    assert list(map(reason, outcomes[1:-1])) == ["INVALID_INPUT"] * 4 + ["TOO_LONG"]
    fields = ["completion.text", "prompt", "prompt[0].role", "prompt[0].role"]
    assert [outcome.absence.detail.partition(":")[0] for outcome in outcomes[1:5]] == fields
    assert "the model takes 256" in outcomes[5].absence.detail
    expected = plain_scores(reward_model, SAMPLES[:2])[:, 0].tolist()
    assert [outcomes[0].reward.value, outcomes[-1].reward.value] == pytest.approx(expected, abs=1e-4)


async def test_cutting_the_prompt_is_said(serve: Callable[..., Any]) -> None:
    long = sample("long", "apples " * 300, "12 + 7 = 19")
    hopeless = sample("hopeless", "2 + 2", "1 " * 400)
    async with serve() as client:
        [refused_one] = await score(client, [long])
        assert reason(refused_one) == "TOO_LONG"
        assert (await client.get_model()).capabilities.overlength == 1
    async with serve(overlength="truncate_prompt") as client:
        cut, short, none = await score(client, [long, SAMPLES[0], hopeless])
        assert cut.provenance.truncated
        assert cut.provenance.tokens_read == 256
        assert math.isfinite(cut.reward.value)
        assert cut.WhichOneof("result") == "reward"
        assert not short.provenance.truncated
        assert reason(none) == "TOO_LONG"
        assert "the completion alone has" in none.absence.detail
        assert (await client.get_model()).capabilities.overlength == 2


async def test_nan_is_an_absence_of_its_item(serve: Callable[..., Any], make_model: Callable[..., Path], tokenizer: Any) -> None:
    [at] = tokenizer("@")["input_ids"]

    def poison(model: Any) -> None:
        model.model.embed_tokens.weight[at] = math.nan

    bad = sample("bad", "Which animal?", "the @ fox")
    async with serve(model=str(make_model("classification", edit=poison))) as client:
        good, lost, other = await score(client, [SAMPLES[0], bad, SAMPLES[1]])
    assert reason(lost) == "NON_FINITE"
    assert good.WhichOneof("result") == other.WhichOneof("result") == "reward"


async def test_a_model_of_nan(serve: Callable[..., Any], make_model: Callable[..., Path]) -> None:
    path = make_model("classification", edit=lambda model: model.score.weight.fill_(math.nan))
    async with serve(model=str(path), cache_bytes=0) as client:
        assert list(map(reason, await score(client, SAMPLES))) == ["NON_FINITE"] * 4


async def test_ten_megabytes_of_text(serve: Callable[..., Any]) -> None:
    huge = sample("huge", "2 + 2", "apples and " * 950_000)
    async with serve() as client:
        call = asyncio.ensure_future(score(client, [huge, SAMPLES[0]]))
        await asyncio.sleep(0.3)
        assert await client.health() == "SERVING", "the event loop is free while the text is tokenised"
        lost, fine = await call
    assert reason(lost) == "TOO_LONG"
    assert fine.WhichOneof("result") == "reward"


async def test_an_expired_deadline(serve: Callable[..., Any]) -> None:
    async with serve() as client:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await client.reward.Score(api.ScoreRequest(samples=SAMPLES), timeout=-1)
        assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert len(await score(client, SAMPLES)) == 4


async def test_a_model_that_cannot_be_packed_is_served_plainly(serve: Callable[..., Any], make_model: Callable[..., Path]) -> None:
    path = make_model("classification", "bloom")
    async with serve(model=str(path), cache_bytes=0) as client:
        capabilities = (await client.get_model()).capabilities
        assert capabilities.forward_mode == 2, "FORWARD_MODE_PLAIN"
        assert "AttentionInterface" in capabilities.forward_mode_reason
        outcomes = await score(client, SAMPLES[:3])  # the fourth is one of them again
    values = [outcome.reward.value for outcome in outcomes]
    assert values == pytest.approx(plain_scores(path, SAMPLES[:3])[:, 0].tolist(), abs=1e-4)
    assert all(outcome.provenance.tokens_computed == outcome.provenance.tokens_read for outcome in outcomes)


@pytest.mark.parametrize("native", [True, False])
async def test_batch_invariant_scores_are_equal_to_the_bit(serve: Callable[..., Any], native: bool) -> None:
    crowd = [[sample(f"{c}-{i}", f"{c} apples and {'more ' * c}", f"{i} left") for i in range(6)] for c in range(12)]
    async with serve(batch_invariant=True, native=native, cache_bytes=0) as client:
        assert (await client.get_model()).capabilities.batch_invariant
        alone = [outcome.reward.value for outcome in await score(client, SAMPLES)]
        replies = await asyncio.gather(*(score(client, samples) for samples in (*crowd, SAMPLES, *crowd, SAMPLES)))
    for reply in (replies[12], replies[-1]):
        assert [outcome.reward.value for outcome in reply] == alone
