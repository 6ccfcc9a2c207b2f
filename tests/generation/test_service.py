"""Generate: completions that a seed fixes, log-probabilities of the very distribution, honest ends, clear refusals."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from rewardmesh.client import AsyncClient, CallFailed, generation_prompt, token_sequence
from rewardmesh.logprob import LogProbConfig
from rewardmesh.logprob import create_server as create_log_prob_server
from rewardmesh.serving import metrics
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import generation_service_pb2 as api

SERVICE = "rewardmesh.v1.GenerationService"
Replies = dict[tuple[str, int], api.GenerateResponse]
PROMPTS = [
    generation_prompt("apples", "How many apples does Ann have now?"),
    generation_prompt("fox", [("system", "Grade."), ("user", "Which fox?")]),
    generation_prompt("ids", token_ids=[30, 31, 32]),
]


def ids(array: pb.Int32Array) -> list[int]:
    return [int(value) for value in np.frombuffer(array.data, "<i4")]


def log_probs(completion: pb.Completion) -> torch.Tensor:
    return torch.from_numpy(np.frombuffer(completion.sampling_log_probs.data, "<f4").copy())


async def generate(client: AsyncClient, *prompts: api.GenerationPrompt, **options: Any) -> Replies:
    request = api.GenerateRequest(prompts=prompts, **({"max_tokens": 12} | options))
    replies = [reply async for reply in client.generation.Generate(request)]
    by_key = {(reply.prompt_id, reply.index): reply for reply in replies}
    assert len(by_key) == len(replies) == len(prompts) * (request.n or 1), "each completion exactly once"
    return by_key


def texts(replies: Replies) -> dict[tuple[str, int], list[int]]:
    return {key: ids(reply.completion.token_ids) for key, reply in replies.items()}


async def refused(client: AsyncClient, code: grpc.StatusCode, **request: Any) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await client.generation.Generate(api.GenerateRequest(**({"prompts": PROMPTS} | request))).read()
    assert error.value.code() is code
    return str(error.value.details())


def reason(reply: api.GenerateResponse) -> str:
    assert reply.WhichOneof("result") == "absence", reply
    return pb.AbsenceReason.Name(reply.absence.reason).removeprefix("ABSENCE_REASON_")


async def until_idle() -> None:
    async with asyncio.timeout(10):
        while metrics.INFLIGHT_ITEMS.labels(SERVICE)._value.get():  # noqa: ASYNC110 - a gauge has no event
            await asyncio.sleep(0.01)


async def test_what_a_completion_carries(serve: Callable[..., Any], causal_model: Path) -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(causal_model)
    async with serve(replica="here") as client:
        replies = await generate(client, *PROMPTS, n=2, seed=3)
    for (prompt, index), reply in replies.items():
        completion = reply.completion
        found = ids(completion.token_ids)
        assert 1 <= len(found) <= 12
        assert completion.text == tokenizer.decode(found, skip_special_tokens=True)
        assert (completion.policy.name, completion.policy.version) == ("policy", 1)
        assert log_probs(completion).shape == (len(found),)
        assert (log_probs(completion) <= 0).all()
        stopped = found[-1] == tokenizer.eos_token_id
        assert completion.finish_reason == (pb.FINISH_REASON_STOP if stopped else pb.FINISH_REASON_LENGTH)
        assert (reply.provenance.replica, reply.provenance.service) == ("here", SERVICE)
        assert reply.HasField("prompt_token_ids") == (index == 0)
        if prompt == "ids" and not index:
            assert ids(reply.prompt_token_ids) == [30, 31, 32]
    turns = [{"role": "user", "content": "How many apples does Ann have now?"}]
    templated = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    assert ids(replies["apples", 0].prompt_token_ids) == templated


@pytest.mark.parametrize("architecture", ["qwen2", "llama", "gpt_neox"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
async def test_log_probs_equal_those_of_the_log_prob_service(
    serve: Callable[..., Any], make_model: Callable[..., Path], architecture: str, temperature: float
) -> None:
    path = make_model("causal", architecture)
    async with serve(model=str(path)) as client:
        replies = await generate(client, *PROMPTS, n=4, temperature=temperature, max_tokens=20)
    prompts = {key[0]: ids(reply.prompt_token_ids) for key, reply in replies.items() if key[1] == 0}
    server = await create_log_prob_server(LogProbConfig(model=str(path), drain_seconds=2.0))
    await server.start()
    async with AsyncClient(server.address) as client:
        sequences = [token_sequence(f"{p}/{i}", prompts[p], ids(reply.completion.token_ids)) for (p, i), reply in replies.items()]
        scored = await client.score_tokens(sequences, temperature=temperature)
    await server.stop()
    for score, reply in zip(scored, replies.values(), strict=True):
        reference = torch.from_numpy(np.frombuffer(score.message.log_probs.log_probs.data, "<f4").copy())
        torch.testing.assert_close(log_probs(reply.completion), reference, atol=1e-4, rtol=0)


async def test_a_seed_fixes_the_completions_whatever_the_batch(serve: Callable[..., Any]) -> None:
    async with serve() as client, serve(max_rows=4) as narrow:
        together = texts(await generate(client, *PROMPTS, n=4, seed=11))
        assert texts(await generate(client, *PROMPTS, n=4, seed=11)) == together
        assert texts(await generate(client, *reversed(PROMPTS), n=4, seed=11)) == together
        assert texts(await generate(narrow, *PROMPTS, n=4, seed=11)) == together
        for prompt in PROMPTS:
            alone = texts(await generate(client, prompt, n=2, seed=11))
            assert alone == {key: together[key] for key in alone}
        assert texts(await generate(client, *PROMPTS, n=4, seed=12)) != together
        longer = texts(await generate(client, *PROMPTS, n=4, seed=11, max_tokens=20))
        assert all(longer[key][: len(found)] == found for key, found in together.items())
    assert len({tuple(found) for found in together.values()}) == 12, "rows have random streams of their own"


async def test_greedy_equals_transformers(serve: Callable[..., Any], causal_model: Path) -> None:
    async with serve() as client:
        replies = await generate(client, *PROMPTS, temperature=0.0, max_tokens=24)
    model = AutoModelForCausalLM.from_pretrained(causal_model)
    for reply in replies.values():
        prompt = torch.tensor([ids(reply.prompt_token_ids)])
        out = model.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=24)
        assert ids(reply.completion.token_ids) == out[0, prompt.shape[1] :].tolist()


async def test_the_first_token_has_the_policy_s_distribution(serve: Callable[..., Any], causal_model: Path) -> None:
    draws = 4000
    async with serve(max_rows=4000) as client:
        replies = await generate(client, PROMPTS[0], n=draws, temperature=0.8, max_tokens=1, seed=5)
    prompt = ids(replies["apples", 0].prompt_token_ids)
    with torch.inference_mode():
        logits = AutoModelForCausalLM.from_pretrained(causal_model)(input_ids=torch.tensor([prompt])).logits[0, -1]
    expected = torch.softmax(logits.double() / 0.8, dim=0).numpy() * draws
    counts = np.bincount([found[0] for found in texts(replies).values()], minlength=len(expected))
    common = expected >= 5
    observed = np.append(counts[common], counts[~common].sum())
    wanted = np.append(expected[common], expected[~common].sum())
    statistic, freedom = float(((observed - wanted) ** 2 / wanted).sum()), len(wanted) - 1
    assert freedom > 20
    # 4 standard deviations of a chi-square variable.
    assert abs(statistic - freedom) < 4 * math.sqrt(2 * freedom)


async def test_stop_strings_end_a_completion_and_stay_out_of_its_text(serve: Callable[..., Any]) -> None:
    async with serve() as client:
        free = await generate(client, PROMPTS[0], n=8, max_tokens=40, seed=2)
        stop = next(reply.completion.text[5:7] for reply in free.values() if len(reply.completion.text) > 8)
        stopped = await generate(client, PROMPTS[0], n=8, max_tokens=40, seed=2, stop=[stop, "never said"])
    assert any(stop in reply.completion.text for reply in free.values())
    for key, reply in stopped.items():
        before = free[key].completion
        assert reply.completion.text == before.text.split(stop)[0]
        if stop in before.text:
            assert reply.completion.finish_reason == pb.FINISH_REASON_STOP
            found = ids(reply.completion.token_ids)
            assert found == ids(before.token_ids)[: len(found)]


async def test_the_token_limit(serve: Callable[..., Any]) -> None:
    async with serve(default_max_tokens=3) as client:
        for limit, wanted in ((5, 5), (0, 3)):
            replies = await generate(client, *PROMPTS, n=3, max_tokens=limit, seed=1)
            assert {len(found) for found in texts(replies).values()} == {wanted}
            assert {reply.completion.finish_reason for reply in replies.values()} == {pb.FINISH_REASON_LENGTH}


async def test_the_context_ends_a_completion_and_too_long_a_prompt_is_absent(serve: Callable[..., Any]) -> None:
    near, over = generation_prompt("near", token_ids=[40] * 250), generation_prompt("over", token_ids=[40] * 256)
    last = generation_prompt("last", token_ids=[40] * 255)
    async with serve() as client:
        replies = await generate(client, near, over, last, PROMPTS[2], n=2, max_tokens=2**31 - 1, seed=6)
        alone = await generate(client, PROMPTS[2], n=2, max_tokens=2**31 - 1, seed=6)
    assert [reason(replies["over", index]) for index in range(2)] == ["TOO_LONG"] * 2
    assert "256 prompt tokens leave no room" in replies["over", 0].absence.detail
    assert all(len(ids(replies["near", index].completion.token_ids)) <= 6 for index in range(2))
    assert [len(ids(replies["last", index].completion.token_ids)) for index in range(2)] == [1, 1]
    assert {key: found for key, found in texts(replies).items() if key[0] == "ids"} == texts(alone)


async def test_truncated_support_must_be_allowed(serve: Callable[..., Any]) -> None:
    async with serve() as client:
        invalid = grpc.StatusCode.INVALID_ARGUMENT
        assert "top_p: truncates the support" in await refused(client, invalid, top_p=0.9)
        assert "top_k: truncates the support" in await refused(client, invalid, top_k=5)
        await generate(client, *PROMPTS, top_k=5, temperature=0.0)
        only = await generate(client, *PROMPTS, n=4, top_k=1, allow_truncated_support=True)
        greedy = await generate(client, *PROMPTS, temperature=0.0)
        assert all(found == texts(greedy)[prompt, 0] for (prompt, _), found in texts(only).items())
        assert all((log_probs(reply.completion) == 0).all() for reply in only.values()), "over the truncated support"
        narrow = await generate(client, *PROMPTS, n=4, top_p=1e-6, allow_truncated_support=True)
        assert texts(narrow) == texts(only)


async def test_the_nucleus_is_renormalised(serve: Callable[..., Any], causal_model: Path) -> None:
    async with serve(max_rows=500) as client:
        replies = await generate(client, PROMPTS[0], n=500, top_p=0.5, allow_truncated_support=True, max_tokens=1)
    prompt = ids(replies["apples", 0].prompt_token_ids)
    with torch.inference_mode():
        logits = AutoModelForCausalLM.from_pretrained(causal_model)(input_ids=torch.tensor([prompt])).logits[0, -1]
    values, order = torch.softmax(logits, 0).sort(descending=True)
    size = int((values.cumsum(0) < 0.5).sum()) + 1
    nucleus = {int(token): float(value) for token, value in zip(order[:size], values[:size] / values[:size].sum(), strict=True)}
    for reply in replies.values():
        [token] = ids(reply.completion.token_ids)
        assert log_probs(reply.completion).item() == pytest.approx(math.log(nucleus[token]), abs=1e-4)


async def test_bad_prompts_are_absent_and_the_others_unharmed(serve: Callable[..., Any]) -> None:
    torn = generation_prompt("torn", token_ids=[1, 2])
    torn.token_ids.length = 3
    bad = [
        api.GenerationPrompt(id="nothing"),
        api.GenerationPrompt(id="role", messages=[pb.Message(content="x")]),
        generation_prompt("no ids", token_ids=[]),
        generation_prompt("beyond", token_ids=[10**6]),
        generation_prompt("negative", token_ids=[-1]),
        torn,
    ]
    async with serve() as client:
        replies = await generate(client, PROMPTS[0], *bad, n=2, seed=1)
        alone = await generate(client, PROMPTS[0], n=2, seed=1)
    assert {reason(replies[prompt.id, index]) for prompt in bad for index in range(2)} == {"INVALID_INPUT"}
    assert {key: found for key, found in texts(replies).items() if key[0] == "apples"} == texts(alone)


@pytest.mark.parametrize(
    ("request_fields", "words"),
    [
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": math.nan}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"n": -1}, "n: must not be negative"),
        ({"n": 300}, "n: 300 is more than this server samples side by side, 256"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"stop": [""]}, "stop"),
        ({"prompts": [PROMPTS[0], PROMPTS[0]]}, "prompts[1].id"),
    ],
)
async def test_bad_requests(serve: Callable[..., Any], request_fields: dict[str, Any], words: str) -> None:
    async with serve() as client:
        assert words in await refused(client, grpc.StatusCode.INVALID_ARGUMENT, **request_fields)


async def test_other_refusals(serve: Callable[..., Any]) -> None:
    async with serve() as client:
        assert "mixture" in await refused(client, grpc.StatusCode.UNIMPLEMENTED, mixture=api.Mixture(weight=0.5))
        assert "known: policy" in await refused(client, grpc.StatusCode.NOT_FOUND, policy=pb.ModelRef(name="other"))
        assert await generate(client) == {}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
async def test_a_policy_of_nan(serve: Callable[..., Any], make_model: Callable[..., Path], temperature: float) -> None:
    path = make_model("causal", edit=lambda model: model.model.norm.weight.fill_(math.nan))
    async with serve(model=str(path)) as client:
        replies = await generate(client, *PROMPTS, n=2, temperature=temperature)
    assert {reason(reply) for reply in replies.values()} == {"NON_FINITE"}


@pytest.fixture(scope="module")
def endless(make_model: Callable[..., Path]) -> Path:
    """A policy with a long context that never ends its answer."""
    return make_model("causal", max_position_embeddings=20_000, eos_token_id=None, tie_word_embeddings=False, edit=_never_end)


def _never_end(model: Any) -> None:
    model.lm_head.weight[1] = 0
    model.model.norm.weight.fill_(1.0)
    model.lm_head.weight[2:].mul_(4)


async def test_a_reader_that_goes_stops_the_work(serve: Callable[..., Any], endless: Path) -> None:
    async with serve(model=str(endless)) as client:
        stream = client.generation.Generate(api.GenerateRequest(prompts=PROMPTS, n=8, max_tokens=15_000, seed=1))
        await asyncio.sleep(0.2)
        stream.cancel()
        await until_idle()
        async with asyncio.timeout(10):  # the engine is free again: it did not go on to 15,000 tokens
            await generate(client, PROMPTS[0], max_tokens=1)


async def test_a_deadline_stops_the_work(serve: Callable[..., Any], endless: Path) -> None:
    async with serve(model=str(endless)) as client:
        stream = client.generation.Generate(api.GenerateRequest(prompts=PROMPTS, n=8, max_tokens=15_000), timeout=0.3)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            _ = [reply async for reply in stream]
        assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await until_idle()


async def test_too_many_waiting_completions_are_refused(serve: Callable[..., Any], endless: Path) -> None:
    async with serve(model=str(endless), max_queue_rows=10) as client:
        stream = client.generation.Generate(api.GenerateRequest(prompts=PROMPTS[:1], n=8, max_tokens=15_000))
        await asyncio.sleep(0.1)
        async for generation in client.generate(api.GenerateRequest(prompts=PROMPTS[:1], n=3, max_tokens=1)):
            assert generation.absence is not None
            assert generation.absence.reason == "OVERLOADED"
        stream.cancel()
        await until_idle()


async def test_loading_while_generating_finishes_on_the_old_version(serve: Callable[..., Any], make_model: Callable[..., Path]) -> None:
    newer = make_model("causal", seed=9)
    async with serve() as client:
        expected = texts(await generate(client, PROMPTS[0], n=4, max_tokens=200, seed=4))
        running = asyncio.create_task(generate(client, PROMPTS[0], n=4, max_tokens=200, seed=4))
        await asyncio.sleep(0.05)
        assert not running.done()
        await client.load_version(2, str(newer))
        await client.activate_version(2, expected_current=1)
        replies = await running
        assert {reply.completion.policy.version for reply in replies.values()} == {1}
        assert texts(replies) == expected
        after = await generate(client, PROMPTS[0], n=4, max_tokens=200, seed=4)
        assert {reply.completion.policy.version for reply in after.values()} == {2}
        assert texts(after) != expected
        old = await generate(client, PROMPTS[0], n=4, max_tokens=200, seed=4, policy=pb.ModelRef(version=1))
        assert texts(old) == expected
        await client.unload_version(1)
        with pytest.raises(CallFailed):
            await client.activate_version(1)


async def test_get_model(serve: Callable[..., Any]) -> None:
    async with serve() as client:
        capabilities = (await client.get_model()).capabilities
    assert list(capabilities.outputs) == ["completions"]
    assert capabilities.forward_mode_reason == "sampling uses a KV cache"


async def test_a_sliding_window_policy(serve: Callable[..., Any], make_model: Callable[..., Path]) -> None:
    path = make_model("causal", "mistral", sliding_window=16)
    long = generation_prompt("long", token_ids=[int(i) % 300 + 5 for i in range(60)])
    async with serve(model=str(path)) as client:
        replies = await generate(client, long, PROMPTS[2], temperature=0.0, max_tokens=30)
    model = AutoModelForCausalLM.from_pretrained(path)
    for reply in replies.values():
        prompt = torch.tensor([ids(reply.prompt_token_ids)])
        out = model.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=30)
        assert ids(reply.completion.token_ids) == out[0, prompt.shape[1] :].tolist()
