"""Our services with `engine: vllm`, as processes of vLLM's own environment: the scores of transformers, versions, a crash survived."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from rewardmesh.client import AsyncClient
from rewardmesh.v1 import model_service_pb2

from . import asking
from .conftest import KV_CACHE_BYTES, TOLERANCE, EngineProcess

pytestmark = [pytest.mark.engines, pytest.mark.slow, pytest.mark.timeout(600)]

OPTIONS = {"kv_cache_gib": KV_CACHE_BYTES / 2**30, "enforce_eager": True, "max_num_batched_tokens": 2048}


class ServiceProcess(EngineProcess):
    """`rewardmesh serve KIND` with engine vllm."""

    def __init__(self, python: Path, directory: Path, kind: str, model: Path, templates: Path, **variables: str) -> None:
        config = directory / f"{kind}.json"  # JSON is YAML
        settings = asking.settings(kind, model, templates) | {"engine": "vllm", "engine_options": OPTIONS, "log_format": "json"}
        settings |= {"cache_bytes": 0} if kind != "generation" else {}
        config.write_text(json.dumps(settings))
        command: list[str | Path] = [python, "-m", "rewardmesh.cli", "serve", kind, "--config", config]
        super().__init__(directory / f"{kind}.log", *command, **variables)

    def answers(self) -> bool:
        """Whether it serves."""
        return bool(self.address)

    @property
    def address(self) -> str:
        """Where it serves; "" before it does."""
        found = re.search(r'"address": ?"([^"]+)"', self.log.read_text(errors="replace"))
        return found[1] if found else ""


@pytest.fixture(scope="module")
def services(
    vllm_python: Path, reward_dir: Path, causal_dir: Path, templates: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, ServiceProcess]]:
    """One service of each kind, started side by side; only the reward service pays for an engine process of its own."""
    directory = tmp_path_factory.mktemp("services")
    started = {"reward": ServiceProcess(vllm_python, directory, "reward", reward_dir, templates)}
    for kind in ("logprob", "judge", "generation"):
        started[kind] = ServiceProcess(vllm_python, directory, kind, causal_dir, templates, VLLM_ENABLE_V1_MULTIPROCESSING="0")
    try:
        for service in started.values():
            service.wait_until(service.answers)
        yield started
    finally:
        for service in started.values():
            service.stop()


Services = dict[str, ServiceProcess]


def children(pid: int) -> list[tuple[int, str]]:
    """Process ids and names of a process's living children."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, rest = entry.read_text().split("(", 1)[1].rsplit(") ", 1)
        except FileNotFoundError:
            continue  # it has ended meanwhile
        state, parent = rest.split()[:2]
        if int(parent) == pid and state != "Z":
            found.append((int(entry.parent.name), name))
    return found


async def test_log_probs(services: Services, causal_dir: Path) -> None:
    want = {"want": {"margin": True, "top_k": 3}}
    async with asking.serving("logprob", causal_dir) as ours, AsyncClient(services["logprob"].address) as theirs:
        for mine, other in zip(await asking.score_tokens(ours, **want), await asking.score_tokens(theirs, **want), strict=True):
            for field in ("log_probs", "margin"):
                expected, found = (asking.floats(getattr(o.log_probs, field)) for o in (mine, other))
                np.testing.assert_allclose(found, expected, atol=TOLERANCE)
            assert asking.ints(other.log_probs.top.ids) == asking.ints(mine.log_probs.top.ids)
        assert asking.lost(await asking.score_tokens(theirs, want={"self_certainty": True})) == {("NOT_APPLICABLE", False)}
        assert asking.lost(await asking.score_tokens(theirs, temperature=2.0)) == {("NOT_APPLICABLE", False)}


async def test_judgements(services: Services, causal_dir: Path, templates: Path) -> None:
    async with asking.serving("judge", causal_dir, templates) as ours, AsyncClient(services["judge"].address) as theirs:
        expected, found = asking.preferences(await asking.compare(ours)), asking.preferences(await asking.compare(theirs))
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)


async def test_samples_are_of_the_distribution_that_is_reported(services: Services, causal_dir: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(causal_dir)
    truncated = {"temperature": 0.7, "top_k": 5, "allow_truncated_support": True}
    async with AsyncClient(services["generation"].address) as client:
        replies, again = await asking.write(client, **truncated), await asking.write(client, **truncated)
        whole = (await asking.write(client, n=1))["ids", 0].completion
        stop = whole.text[len(whole.text) // 2 :][:1]
        cut = (await asking.write(client, n=1, stop=[stop]))["ids", 0].completion
    for (prompt, index), reply in replies.items():
        tokens, given = asking.ints(reply.completion.token_ids), asking.ints(replies[prompt, 0].prompt_token_ids)
        assert tokens == asking.ints(again[prompt, index].completion.token_ids), "a seed fixes it"
        with torch.inference_mode():
            logits = model(torch.tensor([given + tokens])).logits[0, len(given) - 1 : -1] / 0.7
        best = logits.topk(5, dim=-1).values[:, -1:]
        expected = torch.log_softmax(logits.masked_fill(logits < best, -torch.inf), dim=-1)[range(len(tokens)), tokens]
        np.testing.assert_allclose(asking.floats(reply.completion.sampling_log_probs), expected.numpy(), atol=TOLERANCE)
    assert stop not in cut.text
    tokens = asking.ints(cut.token_ids)
    assert asking.ints(whole.token_ids)[: len(tokens)] == tokens


async def test_rewards_and_versions(services: Services, reward_dir: Path, next_reward_dir: Path) -> None:
    async with AsyncClient(services["reward"].address, timeout_s=240) as theirs:
        described = await asking.describe(theirs)
        assert described.capabilities.forward_mode == model_service_pb2.FORWARD_MODE_PLAIN
        assert described.capabilities.forward_mode_reason.startswith("computed by vLLM 0.")
        for version, directory in ((1, reward_dir), (2, next_reward_dir)):
            if version > 1:
                await theirs.load_version(version, str(directory))
                await theirs.activate_version(version)
            async with asking.serving("reward", directory) as ours:
                expected, found = asking.rewards(await asking.score(ours)), asking.rewards(await asking.score(theirs))
                mine = await asking.describe(ours)
            np.testing.assert_allclose(found, expected, atol=TOLERANCE)
            assert np.abs(found.sum(axis=1) - 1).min() > 0.01, "no probabilities"
            assert (await asking.describe(theirs)).active.fingerprint == mine.active.fingerprint
        await theirs.unload_version(1)


async def test_a_killed_engine_is_started_again(services: Services) -> None:
    """After the test before: its second version serves."""
    async with AsyncClient(services["reward"].address, timeout_s=240) as client:
        before = asking.rewards(await asking.score(client))
        engines = [pid for pid, name in children(services["reward"].process.pid) if name.startswith("VLLM::EngineCor")]
        assert engines
        for pid in engines:
            os.kill(pid, signal.SIGKILL)
        assert asking.lost(await asking.score(client)) == {("INFRASTRUCTURE", True)}
        np.testing.assert_allclose(asking.rewards(await asking.score(client)), before, atol=1e-5)
