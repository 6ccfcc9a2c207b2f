"""Our judge and log-prob services with `engine: openai` against an OpenAI-compatible endpoint (vLLM's)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rewardmesh.engine.loading import LoadError

from . import asking
from .conftest import VllmProcess

pytestmark = [pytest.mark.engines, pytest.mark.slow, pytest.mark.timeout(600)]

Servers = dict[str, VllmProcess]


def endpoint(server: VllmProcess, **options: Any) -> dict[str, Any]:
    return {"engine": "openai", "engine_address": server.address, "engine_options": options}


@pytest.mark.parametrize("api", ["chat", "completions"])
async def test_judgements(vllm_servers: Servers, causal_dir: Path, templates: Path, api: str) -> None:
    asked = endpoint(vllm_servers["causal"], api=api)
    async with (
        asking.serving("judge", causal_dir, templates) as ours,
        asking.serving("judge", causal_dir, templates, **asked) as theirs,
    ):
        expected, found = asking.preferences(await asking.compare(ours)), asking.preferences(await asking.compare(theirs))
        described = await asking.describe(theirs)
    # By chat spellings with white space count too.
    np.testing.assert_allclose(found, expected, atol=1e-3 if api == "completions" else 1e-2)
    assert described.capabilities.forward_mode_reason == f"computed by {causal_dir} at {vllm_servers['causal'].address}/v1"


async def test_a_label_that_is_not_listed_is_unparsable(vllm_servers: Servers, causal_dir: Path, templates: Path) -> None:
    asked = endpoint(vllm_servers["causal"], top_logprobs=1, max_label_error=0.0)
    async with asking.serving("judge", causal_dir, templates, **asked) as client:
        assert asking.lost(await asking.compare(client)) == {("UNPARSABLE", False)}


async def test_a_judge_without_log_probabilities_votes(vllm_servers: Servers, causal_dir: Path, templates: Path) -> None:
    asked = endpoint(vllm_servers["causal"], top_logprobs=5000, structured="vllm")
    async with asking.serving("judge", causal_dir, templates, **asked) as client:
        outcomes = await asking.compare(client)
    assert set(np.unique(asking.preferences(outcomes))) <= {0.0, 1.0}
    assert all(outcome.provenance.tokens_written > 0 for outcome in outcomes)


async def test_log_probs_where_prompts_are_echoed(vllm_servers: Servers, causal_dir: Path) -> None:
    asked = endpoint(vllm_servers["causal"], api="completions")
    async with asking.serving("logprob", causal_dir) as ours, asking.serving("logprob", causal_dir, **asked) as theirs:
        for mine, other in zip(await asking.score_tokens(ours), await asking.score_tokens(theirs), strict=True):
            np.testing.assert_allclose(asking.floats(other.log_probs.log_probs), asking.floats(mine.log_probs.log_probs), atol=1e-3)
        assert asking.lost(await asking.score_tokens(theirs, want={"top_k": 2})) == {("NOT_APPLICABLE", False)}


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("generation", {}, "offers label_log_probs, write, this service needs sample"),
        ("logprob", {"api": "chat"}, "offers label_log_probs, write, this service needs token_statistics"),
        ("judge", {"served_model_name": "gpt"}, "not gpt"),
        ("judge", {"api_key_env": "REWARDMESH_TEST_NO_SUCH_KEY"}, "the environment has no REWARDMESH_TEST_NO_SUCH_KEY"),
        ("logprob", {"api": "chat", "top_logprobs": 5000}, "offers write, .* gives no label probabilities"),
    ],
)
async def test_what_an_endpoint_cannot_do_is_said_at_the_start(
    vllm_servers: Servers, causal_dir: Path, templates: Path, kind: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(LoadError, match=message):
        async with asking.serving(kind, causal_dir, templates, **endpoint(vllm_servers["causal"], **options)):
            pass
