"""The packed forward gives what the plain one gives, on many architectures; what cannot be packed runs plainly and says so."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from rewardmesh.engine import attention
from rewardmesh.engine.attention import PACKED, packed_attention
from rewardmesh.engine.forward import classification_head, classification_scores, hidden_states, sequence_states
from rewardmesh.engine.loading import LoadedModel
from rewardmesh.engine.packing import make_plan
from rewardmesh.engine.prefix_cache import PrefixCache

Load = Callable[..., LoadedModel]
ARCHITECTURES = ("qwen2", "qwen3", "llama", "mistral", "gemma", "gemma2", "gemma3_text", "phi", "phi3", "gpt_neox", "gpt_oss")
CHANGES: dict[str, dict[str, Any]] = {
    "qwen3": {"head_dim": 8},
    "gemma": {"head_dim": 8},
    # Windows of 16 tokens, which prompt and answer outgrow; Gemma 2 also soft-caps its logits.
    "mistral": {"sliding_window": 16},
    "gemma2": {"head_dim": 8, "sliding_window": 16, "query_pre_attn_scalar": 8},
    "gemma3_text": {"head_dim": 8, "sliding_window": 16, "query_pre_attn_scalar": 8},
    "phi3": {"sliding_window": 16},
    # Attention sinks and experts.
    "gpt_oss": {"head_dim": 8, "num_local_experts": 4, "sliding_window": 16},
}
TOLERANCE = 1e-4


def plain_states(loaded: LoadedModel, ids: list[int]) -> torch.Tensor:
    """Hidden states by transformers' own attention, one sequence alone."""
    loaded.model.set_attn_implementation("eager")
    try:
        states: torch.Tensor = loaded.model.base_model(input_ids=torch.tensor([ids])).last_hidden_state[0]
        return states
    finally:
        loaded.model.set_attn_implementation(PACKED)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_hidden_states_agree(load: Load, architecture: str, sequences: list[list[int]]) -> None:
    loaded = load("causal", architecture, **CHANGES.get(architecture, {}))
    assert loaded.packed
    assert loaded.reason == ""
    with torch.inference_mode():
        states, rows, computed = sequence_states(loaded.model, sequences, packed=True)
        for ids, where in zip(sequences, rows, strict=True):
            torch.testing.assert_close(states[where], plain_states(loaded, ids), atol=TOLERANCE, rtol=0)
    assert sum(computed) == len(states) < sum(map(len, sequences))
    assert computed[:3] == [len(sequences[0]), 11, 1]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_classification_scores_agree_with_the_whole_plain_model(load: Load, architecture: str, sequences: list[list[int]]) -> None:
    loaded = load("classification", architecture, num_labels=3, **CHANGES.get(architecture, {}))
    with torch.inference_mode():
        scores, _ = classification_scores(loaded.model, sequences, packed=True)
        loaded.model.set_attn_implementation("eager")
        try:
            plain = torch.cat([loaded.model(input_ids=torch.tensor([ids])).logits for ids in sequences])
        finally:
            loaded.model.set_attn_implementation(PACKED)
    assert scores.shape == (8, 3)
    torch.testing.assert_close(scores, plain, atol=TOLERANCE, rtol=0)
    assert plain.std() > 0.1, "scores must differ for the comparison to mean something"


def test_a_plan_without_sharing_gives_the_same(load: Load, sequences: list[list[int]]) -> None:
    model = load("causal", "qwen2").model
    with torch.inference_mode():
        shared, apart = make_plan(sequences), make_plan(sequences, min_shared_tokens=10**9)
        assert len(apart.token_ids) == apart.tokens_read > len(shared.token_ids)
        a, b = hidden_states(model, shared), hidden_states(model, apart)
        for i in range(len(sequences)):
            torch.testing.assert_close(a[shared.rows(i)], b[apart.rows(i)], atol=TOLERANCE, rtol=0)


def test_what_cannot_be_packed_runs_plainly(load: Load, sequences: list[list[int]]) -> None:
    loaded = load("causal", "bloom")
    assert not loaded.packed
    assert "AttentionInterface" in loaded.reason
    assert loaded.model.config._attn_implementation != PACKED
    assert loaded.shareable(100) == 0
    with torch.inference_mode():
        first = [len(ids) - 2 for ids in sequences]
        states, rows, computed = sequence_states(loaded.model, sequences, packed=loaded.packed, first=first)
        own = loaded.model.base_model(input_ids=torch.tensor([sequences[1]])).last_hidden_state[0]
    torch.testing.assert_close(states[rows[1]], own[-2:], atol=TOLERANCE, rtol=0)
    assert computed == [len(ids) for ids in sequences]


@pytest.mark.parametrize("long_tokens", [1, 10, 256])
@pytest.mark.parametrize("architecture", ["qwen2", "gpt_neox", "gemma2"])
def test_only_wanted_rows_and_long_ancestors(
    load: Load, monkeypatch: pytest.MonkeyPatch, architecture: str, long_tokens: int, sequences: list[list[int]]
) -> None:
    """The last layer's pruning and the join by log-sum-exps change nothing that is read."""
    monkeypatch.setattr(attention, "LONG_TOKENS", long_tokens)
    loaded = load("causal", architecture, **CHANGES.get(architecture, {}))
    first = [max(len(ids) - 1 - i, 0) for i, ids in enumerate(sequences)]
    with torch.inference_mode():
        states, rows, _ = sequence_states(loaded.model, sequences, packed=True, first=first)
        for ids, where, begin in zip(sequences, rows, first, strict=True):
            torch.testing.assert_close(states[where], plain_states(loaded, ids)[begin:], atol=TOLERANCE, rtol=0)


def test_gradients_agree(load: Load, sequences: list[list[int]]) -> None:
    """Training runs the same forward: gradients of pruned rows are those of the plain model."""
    model = load("causal", "qwen2").model
    first = [len(ids) - 2 for ids in sequences]
    found = []
    model.requires_grad_(True)
    try:
        for packed in (True, False):
            model.set_attn_implementation(PACKED if packed else "sdpa")
            states, rows, _ = sequence_states(model, sequences, packed=packed, first=first)
            torch.stack([states[r].square().sum() for r in rows]).sum().backward()  # type: ignore[no-untyped-call]
            found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
            model.zero_grad(set_to_none=True)
    finally:
        model.requires_grad_(False)
        model.set_attn_implementation(PACKED)
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name], atol=1e-3, rtol=1e-3)


def test_attention_without_a_plan_is_an_error() -> None:
    row = torch.zeros(1, 1, 4, 8)
    with pytest.raises(ValueError, match="without a plan"):
        packed_attention(None, row, row, row, None)


def test_a_causal_model_has_no_classification_head(load: Load) -> None:
    with pytest.raises(ValueError, match="no sequence-classification head"):
        classification_head(load("causal", "qwen2").model)


def test_threads_share_a_model(load: Load, sequences: list[list[int]]) -> None:
    """Several compute threads run one model at the same time, each with its own wanted rows and the one prefix cache."""
    loaded = load("classification", "qwen2")
    cache = PrefixCache(20_000)
    batches = [sequences[i:] + sequences[:i] for i in range(len(sequences))] * 3

    def run(batch: list[list[int]]) -> list[float]:
        with torch.inference_mode():
            values, _ = classification_scores(loaded.model, batch, packed=True, prefixes=cache)
        return [float(value) for value in values[:, 0]]

    expected = [run(batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(run, batches))
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, abs=1e-5)
