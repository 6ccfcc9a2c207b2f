"""The packed forward gives what the plain one gives, on three architectures; what cannot be packed runs plainly and says so."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from rewardmesh.engine.attention import PACKED, packed_attention
from rewardmesh.engine.forward import classification_head, classification_scores, hidden_states, sequence_states
from rewardmesh.engine.loading import LoadedModel
from rewardmesh.engine.packing import make_plan

Load = Callable[..., LoadedModel]
ARCHITECTURES = ("qwen2", "llama", "gpt_neox")
TOLERANCE = 1e-4


def plain_states(loaded: LoadedModel, ids: list[int]) -> torch.Tensor:
    """Hidden states by transformers' own attention, one sequence alone."""
    loaded.model.set_attn_implementation("sdpa")
    try:
        states: torch.Tensor = loaded.model.base_model(input_ids=torch.tensor([ids])).last_hidden_state[0]
        return states
    finally:
        loaded.model.set_attn_implementation(PACKED)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_hidden_states_agree(load: Load, architecture: str, sequences: list[list[int]]) -> None:
    loaded = load("causal", architecture)
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
    loaded = load("classification", architecture, num_labels=3)
    with torch.inference_mode():
        scores, _ = classification_scores(loaded.model, sequences, packed=True)
        loaded.model.set_attn_implementation("sdpa")
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


@pytest.mark.parametrize(
    ("architecture", "changes", "reason"),
    [
        ("mistral", {"sliding_window": 64}, "a sliding window of 64 tokens"),
        ("gemma2", {"head_dim": 8}, "soft-capped attention"),
    ],
)
def test_what_cannot_be_packed_runs_plainly(
    load: Load, architecture: str, changes: dict[str, int], reason: str, sequences: list[list[int]]
) -> None:
    loaded = load("causal", architecture, **changes)
    assert not loaded.packed
    assert reason in loaded.reason
    assert loaded.model.config._attn_implementation != PACKED
    assert loaded.shareable(100) == 0
    with torch.inference_mode():
        states, rows, computed = sequence_states(loaded.model, sequences, packed=loaded.packed)
        own = loaded.model.base_model(input_ids=torch.tensor([sequences[1]])).last_hidden_state[0]
    torch.testing.assert_close(states[rows[1]], own, atol=TOLERANCE, rtol=0)
    assert computed == [len(ids) for ids in sequences]


def test_a_sliding_window_as_wide_as_the_context_is_packed(load: Load) -> None:
    assert load("causal", "mistral", sliding_window=256).packed


def test_attention_without_a_plan_is_an_error() -> None:
    row = torch.zeros(1, 1, 4, 8)
    with pytest.raises(ValueError, match="without a plan"):
        packed_attention(None, row, row, row, None)


def test_a_causal_model_has_no_classification_head(load: Load) -> None:
    with pytest.raises(ValueError, match="no sequence-classification head"):
        classification_head(load("causal", "qwen2").model)
