"""Our services with `engine: vllm-server` against a real vLLM server: the scores of transformers, and typed absences when it is away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from rewardmesh.cli.ports import free_port
from rewardmesh.client import CallFailed
from rewardmesh.engine.loading import LoadError
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import model_service_pb2

from . import asking
from .conftest import TAKEN, TOLERANCE, VllmProcess

pytestmark = [pytest.mark.engines, pytest.mark.slow, pytest.mark.timeout(600)]


Servers = dict[str, VllmProcess]


def remote(server: VllmProcess, **options: Any) -> dict[str, Any]:
    return {"engine": "vllm-server", "engine_address": server.address, "engine_options": options}


async def test_rewards_are_the_raw_outputs_of_the_head(vllm_servers: Servers, reward_dir: Path) -> None:
    server = vllm_servers["classification"]
    async with asking.serving("reward", reward_dir) as ours, asking.serving("reward", reward_dir, **remote(server)) as theirs:
        expected, found = asking.rewards(await asking.score(ours)), asking.rewards(await asking.score(theirs))
        described = await asking.describe(theirs)
        mine = await asking.describe(ours)
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)
    assert np.abs(found.sum(axis=1) - 1).min() > 0.01, "no probabilities"
    assert described.capabilities.forward_mode == model_service_pb2.FORWARD_MODE_PLAIN
    assert described.capabilities.forward_mode_reason.startswith(f"computed by vllm-server at {server.address}")
    assert described.active.fingerprint != mine.active.fingerprint, "the server may hold other weights than the directory"


async def test_log_probs(vllm_servers: Servers, causal_dir: Path) -> None:
    want = {"want": {"margin": True, "top_k": 3}}
    async with (
        asking.serving("logprob", causal_dir) as ours,
        asking.serving("logprob", causal_dir, **remote(vllm_servers["causal"], items_per_request=2, max_concurrency=2)) as theirs,
    ):
        for mine, other in zip(await asking.score_tokens(ours, **want), await asking.score_tokens(theirs, **want), strict=True):
            for field in ("log_probs", "margin"):
                expected, found = (asking.floats(getattr(o.log_probs, field)) for o in (mine, other))
                np.testing.assert_allclose(found, expected, atol=TOLERANCE)
            assert asking.ints(other.log_probs.top.ids) == asking.ints(mine.log_probs.top.ids)
            np.testing.assert_allclose(
                asking.floats(other.log_probs.top.log_probs), asking.floats(mine.log_probs.top.log_probs), atol=TOLERANCE
            )
        for request in ({"want": {"entropy": True}}, {"temperature": 0.5}):
            refused = await asking.score_tokens(theirs, **request)
            assert asking.lost(refused) == {("NOT_APPLICABLE", False)}
            assert "engine: transformers" in refused[0].absence.detail


async def test_judgements(vllm_servers: Servers, causal_dir: Path, templates: Path) -> None:
    async with (
        asking.serving("judge", causal_dir, templates) as ours,
        asking.serving("judge", causal_dir, templates, **remote(vllm_servers["causal"])) as theirs,
    ):
        expected, found = asking.preferences(await asking.compare(ours)), asking.preferences(await asking.compare(theirs))
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)


@pytest.mark.parametrize("temperature", [0.7, 0.0])
async def test_samples(vllm_servers: Servers, causal_dir: Path, temperature: float) -> None:
    model = AutoModelForCausalLM.from_pretrained(causal_dir)
    async with asking.serving("generation", causal_dir, **remote(vllm_servers["causal"])) as client:
        replies = await asking.write(client, temperature=temperature)
        again = await asking.write(client, temperature=temperature)
        other = await asking.write(client, temperature=temperature, seed=5)
    for (prompt, index), reply in replies.items():
        tokens = asking.ints(reply.completion.token_ids)
        assert tokens == asking.ints(again[prompt, index].completion.token_ids), "a seed fixes it"
        given = asking.ints(replies[prompt, 0].prompt_token_ids)
        with torch.inference_mode():
            logits = model(torch.tensor([given + tokens])).logits[0, len(given) - 1 : -1]
        expected = torch.log_softmax(logits / (temperature or 1.0), dim=-1)[range(len(tokens)), tokens]
        np.testing.assert_allclose(asking.floats(reply.completion.sampling_log_probs), expected.numpy(), atol=TOLERANCE)
    if temperature:
        assert asking.ints(replies["ids", 0].completion.token_ids) != asking.ints(replies["ids", 1].completion.token_ids)
        assert any(asking.ints(other[key].completion.token_ids) != asking.ints(replies[key].completion.token_ids) for key in replies)


async def test_a_stop_string_ends_a_completion(vllm_servers: Servers, causal_dir: Path) -> None:
    async with asking.serving("generation", causal_dir, **remote(vllm_servers["causal"])) as client:
        whole = (await asking.write(client, n=1))["ids", 0].completion
        stop = whole.text[len(whole.text) // 2 :][:1]
        cut = (await asking.write(client, n=1, stop=[stop]))["ids", 0].completion
    assert stop
    assert cut.finish_reason == pb.FINISH_REASON_STOP
    assert whole.text.startswith(cut.text)
    assert stop not in cut.text
    tokens = asking.ints(cut.token_ids)
    assert asking.ints(whole.token_ids)[: len(tokens)] == tokens


async def test_a_server_that_dies_gives_absences_until_it_is_back(vllm_servers: Servers, reward_dir: Path) -> None:
    server = vllm_servers["classification"]
    async with asking.serving("reward", reward_dir, cache_bytes=0, **remote(server, tries=1)) as client:
        before = asking.rewards(await asking.score(client))
        server.kill()
        assert asking.lost(await asking.score(client)) == {("INFRASTRUCTURE", True)}
        vllm_servers["classification"] = server.again()
        vllm_servers["classification"].wait_until(vllm_servers["classification"].answers)
        np.testing.assert_allclose(asking.rewards(await asking.score(client)), before, atol=1e-5)


async def test_another_version_must_be_served_too(vllm_servers: Servers, reward_dir: Path, next_reward_dir: Path) -> None:
    async with asking.serving("reward", reward_dir, **remote(vllm_servers["classification"])) as client:
        with pytest.raises(CallFailed, match=f"the server serves {reward_dir}, not {next_reward_dir}"):
            await client.load_version(2, str(next_reward_dir))


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("reward", {"engine_address": "http://127.0.0.1:{free}"}, "cannot be reached"),
        ("reward", {"engine_address": ""}, "engine_address: is empty"),
        ("reward", {"engine_options": {"tires": 1}}, "engine_options: tires: unknown field"),
        ("reward", {"engine_options": {"served_model_name": "other"}}, "not other"),
        ("reward", {"model": "{causal}"}, "is no classification model"),
        ("logprob", {"model": "{causal}"}, "is not served as a causal model"),
    ],
)
async def test_a_wrong_setting_is_refused_at_the_start(
    vllm_servers: Servers, reward_dir: Path, causal_dir: Path, kind: str, changes: dict[str, Any], message: str
) -> None:
    values = {"{causal}": str(causal_dir), "http://127.0.0.1:{free}": f"http://127.0.0.1:{free_port('127.0.0.1', TAKEN)}"}
    known = {name: values.get(value, value) if isinstance(value, str) else value for name, value in changes.items()}
    given = remote(vllm_servers["classification"]) | known
    with pytest.raises(LoadError, match=message):
        async with asking.serving(kind, Path(given.pop("model", reward_dir)), **given):
            pass
