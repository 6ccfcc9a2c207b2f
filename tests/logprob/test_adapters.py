"""Policies that share a base, over the wire: each is named and versioned, beside calls to the base, and equals its merged weights."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from logprob_support import ask, floats, ids, plain
from lora_directories import PEFT_WARNING, write_adapter
from rewardmesh.client import CallFailed, token_sequence
from rewardmesh.engine.loading import LoadError
from rewardmesh.v1 import common_pb2 as pb

pytestmark = pytest.mark.filterwarnings(PEFT_WARNING)
PROMPT = list(range(30, 50))
SEQUENCES = [token_sequence("a", PROMPT, [60, 61, 62]), token_sequence("b", PROMPT, [70])]


@pytest.fixture(scope="session")
def adapters(causal_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return [write_adapter(tmp_path_factory.mktemp("adapter"), causal_model, seed) for seed in (1, 2, 3)]


def check(outcomes: Any, path: Path) -> None:
    for sequence, outcome in zip(SEQUENCES, outcomes, strict=True):
        expected = plain(path, sequence)
        chosen = expected[torch.arange(len(expected)), ids(sequence.completion_ids)]
        torch.testing.assert_close(floats(outcome.log_probs.log_probs), chosen, atol=1e-4, rtol=0)


async def test_adapters_are_policies(serve: Callable[..., Any], causal_model: Path, adapters: list[Path]) -> None:
    first, second, third = adapters
    async with serve(adapters={"first": str(first), "second": str(second)}) as client:
        refs = [pb.ModelRef(name=name) for name in ("first", "reference", "second")]
        both = await ask(client, SEQUENCES, policies=refs)
        for offset, path in enumerate((first / "merged", causal_model, second / "merged")):
            check(both[offset::3], path)
        assert len({outcome.provenance.model.fingerprint for outcome in both}) == 3
        # At the same time, each in batches of its own.
        replies = await asyncio.gather(*(ask(client, SEQUENCES, policies=[ref]) for ref in refs * 4))
        for reply, path in zip(replies, [first / "merged", causal_model, second / "merged"] * 4, strict=True):
            check(reply, path)
        model = await client.get_model("first")
        assert model.capabilities.forward_mode == 1, "FORWARD_MODE_PACKED"
        await client.load_version(2, str(third), name="first")
        check(await ask(client, SEQUENCES, policies=[pb.ModelRef(name="first")]), first / "merged")
        await client.activate_version(2, name="first", expected_current=1)
        newer = await ask(client, SEQUENCES, policies=[pb.ModelRef(name="first")])
        check(newer, third / "merged")
        assert newer[0].provenance.model.version == 2
        with pytest.raises(CallFailed, match=r"has no adapter_config\.json"):
            await client.load_version(3, str(causal_model), name="first")


async def test_a_new_adapter_goes_on_the_active_base(
    serve: Callable[..., Any], make_model: Callable[..., Path], adapters: list[Path], tmp_path: Path
) -> None:
    newer_base = make_model("causal", seed=9)
    newer_adapter = write_adapter(tmp_path / "adapter", newer_base, 4)
    async with serve(adapters={"first": str(adapters[0])}) as client:
        await client.load_version(2, str(newer_base))
        await client.activate_version(2)
        check(await ask(client, SEQUENCES, policies=[pb.ModelRef(name="first")]), adapters[0] / "merged")
        await client.load_version(2, str(newer_adapter), name="first")
        check(await ask(client, SEQUENCES, policies=[pb.ModelRef(name="first", version=2)]), newer_adapter / "merged")
        check(await ask(client, SEQUENCES, policies=[pb.ModelRef(name="first", version=1)]), adapters[0] / "merged")


async def test_names_are_unique(serve: Callable[..., Any], adapters: list[Path]) -> None:
    with pytest.raises(LoadError, match="reference is the name of more than one policy"):
        async with serve(adapters={"reference": str(adapters[0])}):
            pass
