"""ScoreSuffixes against transformers, one suffix at a time; a prefix is computed once; what is wrong is absent or refused."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from logprob_support import floats, refused
from rewardmesh.client import AsyncClient
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import log_prob_service_pb2 as api

PREFIX = list(range(30, 50))
SUFFIXES = [[60, 61, 62], [60, 61], [60], [7], [60, 61, 62, 63]]
MEAN, SUM = api.SUFFIX_NORMALISATION_MEAN, api.SUFFIX_NORMALISATION_SUM


def array(values: Sequence[int]) -> pb.Int32Array:
    return pb.Int32Array(data=np.asarray(values, "<i4").tobytes(), length=len(values))


async def ask(
    client: AsyncClient, prefixes: Sequence[Sequence[int]], suffixes: Sequence[Sequence[int]], **fields: Any
) -> list[api.SuffixScoresOutcome]:
    request = api.ScoreSuffixesRequest(
        prefixes=[api.TokenPrefix(id=f"p{index}", token_ids=array(ids)) for index, ids in enumerate(prefixes)],
        suffixes=map(array, suffixes),
        **fields,
    )
    outcomes = list((await client.log_prob.ScoreSuffixes(request)).outcomes)
    assert [outcome.prefix_id for outcome in outcomes] == [f"p{index}" for index in range(len(prefixes))]
    return outcomes


@cache
def plain_model(path: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(path)


def naive(path: Path, prefix: Sequence[int], suffix: Sequence[int], *, mean: bool = False, temperature: float = 1.0) -> float:
    with torch.inference_mode():
        logits = plain_model(path)(input_ids=torch.tensor([[*prefix, *suffix]])).logits[0, len(prefix) - 1 : -1]
    chosen = torch.log_softmax(logits / temperature, 1).gather(1, torch.tensor(suffix)[:, None])
    return float(chosen.mean() if mean else chosen.sum())


def check(path: Path, outcome: api.SuffixScoresOutcome, prefix: Sequence[int], suffixes: Sequence[Sequence[int]], **options: Any) -> None:
    expected = torch.tensor([naive(path, prefix, suffix, **options) for suffix in suffixes])
    torch.testing.assert_close(floats(outcome.scores.values), expected, atol=2e-4, rtol=1e-5)


async def test_sum_mean_and_temperature(serve: Callable[..., Any], causal_model: Path) -> None:
    async with serve() as client:
        for normalise in (api.SUFFIX_NORMALISATION_UNSPECIFIED, SUM, MEAN):
            for temperature in (0.0, 0.5):
                [outcome] = await ask(client, [PREFIX], SUFFIXES, normalise=normalise, temperature=temperature)
                check(causal_model, outcome, PREFIX, SUFFIXES, mean=normalise == MEAN, temperature=temperature or 1.0)


async def test_a_prefix_is_computed_once(serve: Callable[..., Any]) -> None:
    other = [9] * 10
    async with serve() as client:
        first, second = (outcome.provenance for outcome in await ask(client, [PREFIX, other], SUFFIXES))
    # Of the suffixes only 60, 61, 62 is computed, once: the last token of a suffix predicts nothing that is asked for.
    assert first.tokens_read == 20 + 11
    assert 20 + 3 <= first.tokens_computed <= 20 + 6
    assert second.tokens_read == 10 + 11
    assert 10 + 3 <= second.tokens_computed <= 10 + 6
    assert (first.model.name, first.model.version) == ("reference", 1)


async def test_named_policies_side_by_side(serve: Callable[..., Any], causal_model: Path, second_policy: Path) -> None:
    paths = {"reference": causal_model, "second": second_policy}
    async with serve(policies={"second": str(second_policy)}) as client:
        replies = await asyncio.gather(*(ask(client, [PREFIX], SUFFIXES, policy=pb.ModelRef(name=name)) for name in [*paths] * 3))
    for name, [outcome] in zip([*paths] * 3, replies, strict=True):
        check(paths[name], outcome, PREFIX, SUFFIXES)
        assert outcome.provenance.model.name == name


async def test_small_batches_give_the_same(serve: Callable[..., Any], causal_model: Path) -> None:
    prefixes = [PREFIX, [5, 6, 7], list(range(100, 130))]
    async with serve(budget_tokens=24) as client:
        for prefix, outcome in zip(prefixes, await ask(client, prefixes, SUFFIXES), strict=True):
            check(causal_model, outcome, prefix, SUFFIXES)


token_lists = st.lists(st.integers(2, 11), min_size=1, max_size=12)


async def test_any_prefixes_and_suffixes(serve: Callable[..., Any], causal_model: Path) -> None:
    """Few distinct tokens, so that prefixes and suffixes share beginnings of every length."""
    async with serve() as client:
        loop = asyncio.get_running_loop()

        @settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
        @given(st.lists(token_lists, min_size=1, max_size=4), st.lists(token_lists, min_size=1, max_size=5), st.booleans())
        def agrees(prefixes: list[list[int]], suffixes: list[list[int]], mean: bool) -> None:
            asked = ask(client, prefixes, suffixes, normalise=MEAN if mean else SUM)
            for prefix, outcome in zip(prefixes, asyncio.run_coroutine_threadsafe(asked, loop).result(30), strict=True):
                check(causal_model, outcome, prefix, suffixes, mean=mean)

        await asyncio.to_thread(agrees)


async def test_bad_prefixes_are_absent_and_the_others_unharmed(serve: Callable[..., Any], causal_model: Path) -> None:
    async with serve() as client:
        prefixes = [PREFIX, [], [10**6], [-1], [1] * 253, [1] * 252]
        outcomes = await ask(client, prefixes, SUFFIXES)
        torn = api.TokenPrefix(id="torn", token_ids=pb.Int32Array(data=b"12345", length=1))
        [lost] = (await client.log_prob.ScoreSuffixes(api.ScoreSuffixesRequest(prefixes=[torn], suffixes=[array([1])]))).outcomes
    invalid, long = pb.ABSENCE_REASON_INVALID_INPUT, pb.ABSENCE_REASON_TOO_LONG
    assert [outcome.absence.reason for outcome in outcomes] == [0, invalid, invalid, invalid, long, 0]
    assert "257 tokens, the policy takes 256" in outcomes[4].absence.detail
    assert lost.absence.detail == "token_ids: states 1 values, holds 5 bytes"
    check(causal_model, outcomes[0], PREFIX, SUFFIXES)
    assert outcomes[0].provenance.model.version == 1


async def test_bad_calls(serve: Callable[..., Any]) -> None:
    invalid = grpc.StatusCode.INVALID_ARGUMENT
    async with serve() as client:
        assert await ask(client, [], SUFFIXES) == []
        assert "suffixes: are missing" in await refused(ask(client, [PREFIX], []), invalid)
        assert "suffixes[1]: is empty" in await refused(ask(client, [PREFIX], [[1], []]), invalid)
        assert "suffixes[0]: a token id lies outside" in await refused(ask(client, [PREFIX], [[10**6]]), invalid)
        assert "temperature" in await refused(ask(client, [PREFIX], SUFFIXES, temperature=math.nan), invalid)
        assert "normalise" in await refused(ask(client, [PREFIX], SUFFIXES, normalise=9), invalid)
        unknown = ask(client, [PREFIX], SUFFIXES, policy=pb.ModelRef(name="other"))
        assert "no policy named 'other'" in await refused(unknown, grpc.StatusCode.NOT_FOUND)
        twice = api.ScoreSuffixesRequest(prefixes=[api.TokenPrefix(id="a"), api.TokenPrefix(id="a")], suffixes=[array([1])])
        assert "prefixes[1].id" in await refused(client.log_prob.ScoreSuffixes(twice), invalid)


async def test_nan_is_an_absence_of_its_prefix(serve: Callable[..., Any], make_model: Callable[..., Path]) -> None:
    def poison(model: Any) -> None:
        model.model.embed_tokens.weight[99] = math.nan

    path = make_model("causal", edit=poison, tie_word_embeddings=False)
    async with serve(model=str(path)) as client:
        good, bad = await ask(client, [PREFIX, [1, 99]], SUFFIXES)
    assert good.WhichOneof("result") == "scores"
    assert bad.absence.reason == pb.ABSENCE_REASON_NON_FINITE


async def test_an_expired_call_is_never_zero(serve: Callable[..., Any]) -> None:
    async with serve() as client:
        request = api.ScoreSuffixesRequest(prefixes=[api.TokenPrefix(id="a", token_ids=array(PREFIX))], suffixes=[array([1])])
        assert await refused(client.log_prob.ScoreSuffixes(request, timeout=1e-6), grpc.StatusCode.DEADLINE_EXCEEDED)
