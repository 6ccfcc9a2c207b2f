"""ScoreTokens against a direct log_softmax under several policies; bad sequences are absent, bad calls refused."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import torch

from logprob_support import ask, floats, ids, plain, reason, refused
from rewardmesh.client import CallFailed, token_sequence
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import log_prob_service_pb2 as api

PROMPT = list(range(30, 50))
SEQUENCES = [
    token_sequence("a", PROMPT, [60, 61, 62]),
    token_sequence("b", PROMPT, [70]),
    token_sequence("c", [5], [80, 81]),
]
WANT_ALL = api.LogProbWants(entropy=True, self_certainty=True, margin=True, top_k=3)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
async def test_log_probs_and_statistics(serve: Callable[..., Any], causal_model: Path, temperature: float) -> None:
    async with serve() as client:
        outcomes = await ask(client, SEQUENCES, temperature=temperature, want=WANT_ALL)
    assert [outcome.sequence_id for outcome in outcomes] == ["a", "b", "c"]
    for sequence, outcome in zip(SEQUENCES, outcomes, strict=True):
        expected = plain(causal_model, sequence, temperature)
        found = outcome.log_probs
        best = expected.topk(3, dim=1)
        chosen = expected[torch.arange(len(expected)), ids(sequence.completion_ids)]
        for array, wanted in (
            (found.log_probs, chosen),
            (found.entropy, -(expected.exp() * expected).sum(1)),
            (found.self_certainty, -expected.mean(1) - math.log(expected.shape[1])),
            (found.margin, best.values[:, 0] - best.values[:, 1]),
            (found.top.log_probs, best.values.flatten()),
        ):
            torch.testing.assert_close(floats(array), wanted, atol=1e-4, rtol=0)
        assert found.sum == pytest.approx(float(chosen.sum()), abs=1e-4)
        assert found.top.k == 3
        assert ids(found.top.ids) == best.indices.flatten().tolist()


async def test_only_what_is_asked_for_is_sent(serve: Callable[..., Any]) -> None:
    async with serve() as client:
        [plain_outcome] = await ask(client, SEQUENCES[:1])
        [entropy_only] = await ask(client, SEQUENCES[:1], want=api.LogProbWants(entropy=True))
    fields = [{field.name for field, _ in outcome.log_probs.ListFields()} for outcome in (plain_outcome, entropy_only)]
    assert fields == [{"log_probs", "sum"}, {"log_probs", "sum", "entropy"}]


async def test_several_named_policies(serve: Callable[..., Any], causal_model: Path, second_policy: Path) -> None:
    async with serve(policies={"second": str(second_policy)}) as client:
        policies = [pb.ModelRef(name="second"), pb.ModelRef(name="reference", version=1)]
        outcomes = await ask(client, SEQUENCES, policies=policies)
        by_default = await ask(client, SEQUENCES)
        assert (await client.get_model("second")).capabilities.max_tokens == 64
        assert (await client.get_model()).active.name == "reference"
    assert [outcome.sequence_id for outcome in outcomes] == ["a", "a", "b", "b", "c", "c"]
    assert [outcome.provenance.model.name for outcome in outcomes] == ["second", "reference"] * 3
    for outcome, sequence, path in zip(outcomes, (s for s in SEQUENCES for _ in range(2)), [second_policy, causal_model] * 3, strict=True):
        expected = plain(path, sequence)
        chosen = expected[torch.arange(len(expected)), ids(sequence.completion_ids)]
        torch.testing.assert_close(floats(outcome.log_probs.log_probs), chosen, atol=1e-4, rtol=0)
    assert [outcome.provenance.model.name for outcome in by_default] == ["reference"] * 3


async def test_each_policy_has_its_own_context(serve: Callable[..., Any], second_policy: Path) -> None:
    long = token_sequence("long", [7] * 80, [8, 9])
    async with serve(policies={"second": str(second_policy)}) as client:
        short, wide = await ask(client, [long], policies=[pb.ModelRef(name="second"), pb.ModelRef(name="reference")])
    assert reason(short) == "TOO_LONG"
    assert "82 tokens, the policy takes 64" in short.absence.detail
    assert wide.WhichOneof("result") == "log_probs"


async def test_a_shared_prompt_is_computed_once(serve: Callable[..., Any]) -> None:
    async with serve() as client:
        a, b, _ = [outcome.provenance for outcome in await ask(client, SEQUENCES)]
    # The last completion token predicts nothing that is asked for.
    assert (a.tokens_read, a.tokens_computed) == (23, 22)
    assert (b.tokens_read, b.tokens_computed) == (21, 0)


async def test_bad_sequences_are_absent_and_the_others_unharmed(serve: Callable[..., Any]) -> None:
    torn = token_sequence("torn", [1, 2], [3])
    torn.completion_ids.length = 2
    odd = token_sequence("odd", [1, 2], [3])
    odd.prompt_ids.data = b"12345"
    bad = [
        token_sequence("no prompt", [], [1]),
        token_sequence("no completion", [1], []),
        token_sequence("beyond", [1], [10**6]),
        token_sequence("negative", [-1], [1]),
        torn,
        odd,
        token_sequence("long", [1] * 250, [2] * 7),
    ]
    async with serve(cache_bytes=0) as client:
        outcomes = await ask(client, [SEQUENCES[0], *bad, SEQUENCES[1]])
        fits = await ask(client, [token_sequence("fits", [1] * 250, [2] * 6)])
        alone = await ask(client, [SEQUENCES[0]])
    assert list(map(reason, outcomes[1:-1])) == ["INVALID_INPUT"] * 6 + ["TOO_LONG"]
    details = [outcome.absence.detail for outcome in outcomes[1:-1]]
    fields = ["prompt_ids", "completion_ids", "completion_ids", "prompt_ids", "completion_ids", "prompt_ids"]
    assert [detail.partition(":")[0] for detail in details[:6]] == fields
    assert "states 2 values, holds 4 bytes" in details[4]
    assert fits[0].WhichOneof("result") == "log_probs"
    torch.testing.assert_close(floats(outcomes[0].log_probs.log_probs), floats(alone[0].log_probs.log_probs), atol=1e-5, rtol=0)
    assert outcomes[-1].WhichOneof("result") == "log_probs"


async def test_bad_calls(serve: Callable[..., Any]) -> None:
    async with serve() as client:
        invalid = grpc.StatusCode.INVALID_ARGUMENT
        assert await ask(client, []) == []
        for temperature in (-0.5, math.nan, math.inf):
            assert "temperature" in await refused(ask(client, SEQUENCES, temperature=temperature), invalid)
        for top_k in (-1, 1025):
            assert "want.top_k" in await refused(ask(client, SEQUENCES, want=api.LogProbWants(top_k=top_k)), invalid)
        assert "sequences[1].id" in await refused(ask(client, [SEQUENCES[0], SEQUENCES[0]]), invalid)
        assert "sequences[0].id" in await refused(ask(client, [api.TokenSequence()]), invalid)
        other = refused(ask(client, SEQUENCES, policies=[pb.ModelRef(name="other")]), grpc.StatusCode.NOT_FOUND)
        assert "no policy named 'other'; known: reference" in await other
        version = refused(ask(client, SEQUENCES, policies=[pb.ModelRef(name="reference", version=4)]), grpc.StatusCode.NOT_FOUND)
        assert "'4'; known: 1" in await version


async def test_nan_is_an_absence(serve: Callable[..., Any], make_model: Callable[..., Path]) -> None:
    def poison(model: Any) -> None:
        model.model.embed_tokens.weight[99] = math.nan

    path = make_model("causal", edit=poison, tie_word_embeddings=False)
    async with serve(model=str(path)) as client:
        bad = token_sequence("bad", [1, 99, 2], [3, 4])
        good, lost = await ask(client, [SEQUENCES[0], bad])
    assert good.WhichOneof("result") == "log_probs"
    assert reason(lost) == "NON_FINITE"


async def test_a_temperature_near_zero_is_absent_not_wrong(serve: Callable[..., Any]) -> None:
    async with serve() as client:
        [outcome] = await ask(client, SEQUENCES[:1], temperature=1e-42)
    assert reason(outcome) == "NON_FINITE"


async def test_policies_are_versioned_one_by_one(serve: Callable[..., Any], second_policy: Path, make_model: Callable[..., Path]) -> None:
    newer = make_model("causal", "llama", seed=4)
    async with serve(policies={"second": str(second_policy)}) as client:
        await client.load_version(2, str(newer), name="second")
        await client.activate_version(2, name="second", expected_current=1)
        outcomes = await ask(client, SEQUENCES[:1], policies=[pb.ModelRef(name="reference"), pb.ModelRef(name="second")])
        assert [outcome.provenance.model.version for outcome in outcomes] == [1, 2]
        with pytest.raises(CallFailed, match="reference, second"):
            await client.load_version(2, str(newer), name="third")


async def test_calls_side_by_side_keep_their_options(serve: Callable[..., Any], causal_model: Path) -> None:
    temperatures = [0.5, 0.7, 1.0, 2.0]
    async with serve() as client:
        replies = await asyncio.gather(*(ask(client, SEQUENCES[:1], temperature=t) for t in temperatures * 3))
    for temperature, [outcome] in zip(temperatures * 3, replies, strict=True):
        expected = plain(causal_model, SEQUENCES[0], temperature)[torch.arange(3), [60, 61, 62]]
        torch.testing.assert_close(floats(outcome.log_probs.log_probs), expected, atol=1e-4, rtol=0)


async def test_a_policy_that_cannot_be_packed(serve: Callable[..., Any], make_model: Callable[..., Path]) -> None:
    path = make_model("causal", "bloom")
    async with serve(model=str(path)) as client:
        capabilities = (await client.get_model()).capabilities
        outcomes = await ask(client, SEQUENCES, want=WANT_ALL)
    assert capabilities.forward_mode == 2, "FORWARD_MODE_PLAIN"
    assert "AttentionInterface" in capabilities.forward_mode_reason
    for sequence, outcome in zip(SEQUENCES, outcomes, strict=True):
        expected = plain(path, sequence)
        chosen = expected[torch.arange(len(expected)), ids(sequence.completion_ids)]
        torch.testing.assert_close(floats(outcome.log_probs.log_probs), chosen, atol=1e-4, rtol=0)
