"""Log-probabilities are computed once for the same tokens with the same options; as bytes they stay what they were."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from logprob_support import ask
from rewardmesh.client import token_sequence
from rewardmesh.engine.cached import TokenStatisticsCodec
from rewardmesh.engine.log_probs import TokenStatistics
from rewardmesh.serving.caching import CorruptValueError
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import log_prob_service_pb2 as api

SEQUENCE = token_sequence("a", list(range(30, 50)), [60, 61, 62])
MOVED = token_sequence("moved", [*range(30, 50), 60], [61, 62])
CODEC = TokenStatisticsCodec()


async def test_the_same_sequence_is_computed_once(serve: Callable[..., Any]) -> None:
    async with serve() as client:
        replies = await asyncio.gather(*(ask(client, [SEQUENCE]) for _ in range(8)))
        [moved] = await ask(client, [MOVED])
    outcomes = [outcome for reply in replies for outcome in reply]
    assert sum(not outcome.provenance.cached for outcome in outcomes) == 1
    assert all(outcome.log_probs == outcomes[0].log_probs for outcome in outcomes)
    assert not moved.provenance.cached, "the same tokens, but another part of them is scored"


async def test_options_and_policies_are_part_of_the_identity(serve: Callable[..., Any], second_policy: Path) -> None:
    wants: list[dict[str, Any]] = [{}, {"temperature": 0.5}, {"want": api.LogProbWants(entropy=True)}, {"want": api.LogProbWants(top_k=3)}]
    wants.append({"policies": [pb.ModelRef(name="second")]})
    async with serve(policies={"second": str(second_policy)}) as client:
        first = [(await ask(client, [SEQUENCE], **want))[0] for want in wants]
        again = [(await ask(client, [SEQUENCE], **want))[0] for want in wants]
    assert not any(outcome.provenance.cached for outcome in first)
    assert all(outcome.provenance.cached for outcome in again)
    assert [outcome.log_probs for outcome in again] == [outcome.log_probs for outcome in first]


def test_every_field_is_known_to_the_codec() -> None:
    full = statistics(4, top=3, extras=True)
    assert {field.name for field in dataclasses.fields(TokenStatistics)} == {
        name for name, value in vars(full).items() if value is not None
    }
    assert_equal(decoded(full), full)


@given(st.integers(0, 5), st.integers(0, 3), st.booleans())
def test_statistics_come_back_equal_to_the_bit(tokens: int, top: int, extras: bool) -> None:
    value = statistics(tokens, top=top, extras=extras)
    assert_equal(decoded(value), value)


def test_what_is_not_finite_is_not_kept() -> None:
    value = statistics(4, top=0, extras=True)
    assert value.entropy is not None
    value.entropy[2] = torch.nan
    assert CODEC.encode(value) is None


@given(st.binary(max_size=60))
def test_rubbish_is_found_out(data: bytes) -> None:
    good = CODEC.encode(statistics(4, top=2, extras=True))
    assert good is not None
    for wrong in (good[:-1], good + b"\0", b"\xff" + good[1:], b"\x02" + good[1:], b""):
        with pytest.raises(CorruptValueError):
            CODEC.decode(wrong)
    try:
        CODEC.decode(data)
    except CorruptValueError:
        return
    assert len(data) >= 9, "nine bytes say that there are no tokens"


def statistics(tokens: int, *, top: int, extras: bool) -> TokenStatistics:
    """Made-up statistics."""
    generator = torch.Generator().manual_seed(tokens)

    def floats(*shape: int) -> torch.Tensor:
        return -torch.rand(shape, generator=generator)

    extra = {name: floats(tokens) for name in ("entropy", "self_certainty", "margin")} if extras else {}
    most = {"top_ids": torch.randint(0, 150_000, (tokens, top)), "top_log_probs": floats(tokens, top)} if top else {}
    return TokenStatistics(log_probs=floats(tokens), **extra, **most)


def decoded(value: TokenStatistics) -> TokenStatistics:
    """There and back."""
    data = CODEC.encode(value)
    assert data is not None
    return CODEC.decode(data)


def assert_equal(found: TokenStatistics, wanted: TokenStatistics) -> None:
    """Every field, type and bit."""
    for field in dataclasses.fields(TokenStatistics):
        one, other = getattr(found, field.name), getattr(wanted, field.name)
        assert (one is None) == (other is None), field.name
        if other is not None:
            assert one.dtype == other.dtype
            assert torch.equal(one, other), field.name
