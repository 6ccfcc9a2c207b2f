"""StreamNextLogits against transformers, token by token: interleaved with batches, bounded, kept on the version it began with."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from logprob_support import ask, floats, ids
from lora_directories import PEFT_WARNING, write_adapter
from rewardmesh.client import AsyncClient, token_sequence
from rewardmesh.logprob import steps
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import log_prob_service_pb2 as api

pytestmark = pytest.mark.filterwarnings(PEFT_WARNING)
PROMPT = list(range(30, 50))
CHOSEN = [[60], [61, 62, 63], [7]]


def tokens(values: Sequence[int]) -> pb.Int32Array:
    return pb.Int32Array(data=np.asarray(values, "<i4").tobytes(), length=len(values))


def naive(path: Path, prompt: Sequence[int] = PROMPT, chosen: Sequence[Sequence[int]] = CHOSEN) -> list[torch.Tensor]:
    """Next-token logits after the prompt and after each run of chosen tokens, each computed from the start."""
    model = AutoModelForCausalLM.from_pretrained(path)
    sequence, results = list(prompt), []
    with torch.inference_mode():
        for run in ([], *chosen):
            sequence += run
            results.append(model(input_ids=torch.tensor([sequence])).logits[0, -1])
    return results


async def once(client: AsyncClient, values: Sequence[int], **fields: Any) -> api.StreamNextLogitsResponse:
    """The reply to the only message of a stream."""
    stream = Stream(client)
    reply = await stream.send(values, **fields)
    await stream.end()
    return reply


class Stream:
    """One call, message by message."""

    def __init__(self, client: AsyncClient) -> None:
        self.call = client.log_prob.StreamNextLogits()

    async def send(self, values: Sequence[int], **fields: Any) -> api.StreamNextLogitsResponse:
        await self.call.write(api.StreamNextLogitsRequest(token_ids=tokens(values), **fields))
        reply = await self.call.read()
        assert isinstance(reply, api.StreamNextLogitsResponse)
        return reply

    async def fails(self, code: grpc.StatusCode, values: Sequence[int] | None, **fields: Any) -> str:
        """Send a message, or only wait (None); the details of the status that ends the call."""
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await (self.call.read() if values is None else self.send(values, **fields))
        assert error.value.code() is code
        return str(error.value.details())

    async def end(self) -> None:
        await self.call.done_writing()
        assert await self.call.read() is grpc.aio.EOF


async def check(stream: Stream, path: Path, **fields: Any) -> None:
    expected = naive(path)
    replies = [await stream.send(PROMPT, **fields), *[await stream.send(run) for run in CHOSEN]]
    for reply, wanted in zip(replies, expected, strict=True):
        torch.testing.assert_close(floats(reply.logits), wanted, atol=1e-4, rtol=1e-4)
        assert not reply.HasField("token_ids")
        assert reply.remainder == 0
    assert replies[0].policy.version == 1
    assert not any(reply.HasField("policy") for reply in replies[1:])
    await stream.end()


@pytest.mark.parametrize("architecture", ["qwen2", "gpt_neox", "gemma2"])
async def test_logits_of_the_whole_vocabulary(serve: Callable[..., Any], make_model: Callable[..., Path], architecture: str) -> None:
    path = make_model("causal", architecture, **({"head_dim": 8} if architecture == "gemma2" else {}))
    async with serve(model=str(path)) as client:
        await check(Stream(client), path)
        assert (await ask(client, [token_sequence("a", PROMPT, [5])]))[0].WhichOneof("result") == "log_probs", "packed again"


async def test_a_long_prompt_in_parts(serve: Callable[..., Any], causal_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "STEP_TOKENS", 7)
    async with serve() as client:
        await check(Stream(client), causal_model)


async def test_top_k_and_the_mass_of_the_rest(serve: Callable[..., Any], causal_model: Path) -> None:
    wanted = naive(causal_model)[0]
    async with serve() as client:
        for k in (1, 5, 10**6):
            reply = await once(client, PROMPT, top_k=k)
            best = wanted.topk(min(k, len(wanted)))
            torch.testing.assert_close(floats(reply.logits), best.values, atol=1e-4, rtol=1e-4)
            assert ids(reply.token_ids)[:5] == best.indices[:5].tolist()
            mass = float(torch.softmax(wanted.double(), 0)[best.indices].sum())
            assert reply.remainder == pytest.approx(1 - mass, abs=1e-5)


async def test_streams_and_batches_side_by_side(serve: Callable[..., Any], causal_model: Path, second_policy: Path) -> None:
    sequence = token_sequence("a", PROMPT, [60, 61, 62])
    async with serve(policies={"second": str(second_policy)}, cache_bytes=0) as client:
        [alone] = await ask(client, [sequence])

        async def scores(temperature: float) -> None:
            policies = [pb.ModelRef(name="reference"), pb.ModelRef(name="second")]
            assert len(await ask(client, [sequence], policies=policies, temperature=temperature)) == 2

        streams = [
            check(Stream(client), path, policy=pb.ModelRef(name=name))
            for name, path in [("reference", causal_model), ("second", second_policy)] * 4
        ]
        await asyncio.gather(*streams, *(scores(1 + n / 8) for n in range(8)))
        [after] = await ask(client, [sequence])
    torch.testing.assert_close(floats(alone.log_probs.log_probs), floats(after.log_probs.log_probs), atol=1e-5, rtol=0)


async def test_a_stream_keeps_the_version_it_began_with(
    serve: Callable[..., Any], causal_model: Path, make_model: Callable[..., Path]
) -> None:
    newer = make_model("causal", seed=5)
    expected = naive(causal_model)
    async with serve() as client:
        stream = Stream(client)
        first = await stream.send(PROMPT)
        await client.load_version(2, str(newer))
        await client.activate_version(2)
        await client.unload_version(1)
        second = await stream.send(CHOSEN[0])
        await stream.end()
        later = await once(client, PROMPT)
    torch.testing.assert_close(floats(first.logits), expected[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(floats(second.logits), expected[1], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(floats(later.logits), naive(newer)[0], atol=1e-4, rtol=1e-4)
    assert (first.policy.version, later.policy.version) == (1, 2)


async def test_streams_under_adapters(serve: Callable[..., Any], causal_model: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", causal_model)
    async with serve(adapters={"tuned": str(adapter)}) as client:
        await asyncio.gather(
            *(
                check(Stream(client), path, policy=pb.ModelRef(name=name))
                for name, path in (("tuned", adapter / "merged"), ("", causal_model))
            )
        )


async def test_open_streams_and_their_tokens_are_bounded(serve: Callable[..., Any]) -> None:
    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    async with serve(max_open_streams=2, max_stream_tokens=30) as client:
        first, second = Stream(client), Stream(client)
        await first.send(PROMPT)
        await second.send([5])
        assert "2 streams are open" in await Stream(client).fails(code, [5])
        assert "open streams hold 21 of 30 tokens, no room for 20 more" in await second.fails(code, PROMPT)
        third = Stream(client)  # the second has given back its place and its token
        assert "open streams hold 20 of 30 tokens" in await third.fails(code, range(11))
        second_place = Stream(client)
        await second_place.send(range(10))
        first.call.cancel()
        codes = [code]
        while codes[-1] is code:  # until the server has seen it
            last = Stream(client)
            with suppress(grpc.aio.AioRpcError):
                await last.send(range(5, 20))
                await last.end()
            codes.append(await last.call.code())
        assert codes[-1] is grpc.StatusCode.OK
        await second_place.end()


async def test_an_idle_stream_is_ended(serve: Callable[..., Any]) -> None:
    async with serve(stream_idle_seconds=0.2) as client:
        stream = Stream(client)
        await stream.send(PROMPT)
        details = await stream.fails(grpc.StatusCode.UNAVAILABLE, None)
        assert "sent nothing for 0.2 s" in details
        silent = Stream(client)
        assert "sent nothing" in await silent.fails(grpc.StatusCode.UNAVAILABLE, None)


async def test_the_client_takes_an_idle_stream_up_again(serve: Callable[..., Any], causal_model: Path) -> None:
    async with serve(stream_idle_seconds=0.2) as client, client.next_logits(PROMPT) as session:
        await asyncio.sleep(0.5)
        latest = await session.send(CHOSEN[0])
    torch.testing.assert_close(torch.tensor(latest.logits), naive(causal_model)[1], atol=1e-4, rtol=1e-4)


async def test_wrong_messages(serve: Callable[..., Any]) -> None:
    invalid = grpc.StatusCode.INVALID_ARGUMENT
    async with serve() as client:
        assert "token_ids" in await Stream(client).fails(invalid, [])
        assert "outside the vocabulary" in await Stream(client).fails(invalid, [10**6])
        assert "top_k" in await Stream(client).fails(invalid, [1], top_k=-1)
        assert "no policy named 'other'" in await Stream(client).fails(grpc.StatusCode.NOT_FOUND, [1], policy=pb.ModelRef(name="other"))
        for fields in ({"top_k": 3}, {"policy": pb.ModelRef(name="reference")}):
            stream = Stream(client)
            await stream.send([1])
            assert "fixed by the first message" in await stream.fails(invalid, [2], **fields)
        assert "257 tokens, the policy takes 256" in await Stream(client).fails(grpc.StatusCode.OUT_OF_RANGE, [1] * 257)
        empty = Stream(client)
        await empty.end()


async def test_a_model_without_keys_and_values(serve: Callable[..., Any], make_model: Callable[..., Path]) -> None:
    path = make_model("causal", "mamba", state_size=8)
    async with serve(model=str(path)) as client:
        assert "keeps no keys and values" in await Stream(client).fails(grpc.StatusCode.FAILED_PRECONDITION, PROMPT)


async def test_nan_ends_the_stream(serve: Callable[..., Any], make_model: Callable[..., Path]) -> None:
    def poison(model: Any) -> None:
        model.model.embed_tokens.weight[99] = torch.nan

    path = make_model("causal", edit=poison, tie_word_embeddings=False)
    async with serve(model=str(path)) as client:
        stream = Stream(client)
        await stream.send(PROMPT)
        assert "NaN or infinity" in await stream.fails(grpc.StatusCode.INTERNAL, [99])
