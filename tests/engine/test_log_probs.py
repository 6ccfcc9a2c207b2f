"""Token log-probabilities and statistics against a direct log_softmax, in chunks of any size, with gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from rewardmesh.engine import log_probs
from rewardmesh.engine.attention import PACKED
from rewardmesh.engine.loading import LoadedModel
from rewardmesh.engine.log_probs import TokenStatistics, completion_states, differentiable_log_probs, next_token_log_probs, token_statistics

Load = Callable[..., LoadedModel]
Pairs = list[tuple[list[int], list[int]]]
ARCHITECTURES = ("qwen2", "llama", "gpt_neox")
TOLERANCE = 1e-4


@pytest.fixture(scope="session")
def pairs(sequences: list[list[int]]) -> Pairs:
    return [(ids[:-k], ids[-k:]) for ids, k in zip(sequences, (5, 11, 1, 5, 11, 1, 5, 3), strict=True)]


def plain_log_softmax(model: Any, pairs: Pairs, temperature: float) -> torch.Tensor:
    """[N, V] log-probabilities of all tokens at all completion positions, by the model's own forward."""
    model.set_attn_implementation("sdpa")
    try:
        rows = [model(input_ids=torch.tensor([p + c])).logits[0, len(p) - 1 : -1] for p, c in pairs]
    finally:
        model.set_attn_implementation(PACKED)
    return torch.log_softmax(torch.cat(rows).float() / temperature, dim=1)


def statistics(model: Any, pairs: Pairs, *, packed: bool = True, **options: Any) -> TokenStatistics:
    with torch.inference_mode():
        states, targets, lengths, _ = completion_states(model, pairs, packed=packed)
        assert lengths == [len(c) for _, c in pairs]
        return token_statistics(model, states, targets, **options)


@pytest.mark.parametrize("chunks", [None, (7, 5), (1000, 1), (3, 64)])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_statistics_equal_a_direct_log_softmax(
    load: Load, pairs: Pairs, architecture: str, chunks: tuple[int, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if chunks:
        monkeypatch.setattr(log_probs, "ROW_CHUNK", chunks[0])
        monkeypatch.setattr(log_probs, "VOCABULARY_CHUNK", chunks[1])
    model = load("causal", architecture).model
    stats = statistics(model, pairs, temperature=0.7, extras=True, top_k=5)
    with torch.inference_mode():
        expected = plain_log_softmax(model, pairs, 0.7)
    targets = torch.tensor([token for _, c in pairs for token in c])
    vocabulary = expected.shape[1]
    best = expected.topk(5, dim=1)
    for name, wanted in {
        "log_probs": expected.gather(1, targets[:, None])[:, 0],
        "entropy": -(expected.exp() * expected).sum(1),
        "self_certainty": -expected.mean(1) - math.log(vocabulary),
        "margin": best.values[:, 0] - best.values[:, 1],
        "top_log_probs": best.values,
    }.items():
        torch.testing.assert_close(getattr(stats, name), wanted, atol=TOLERANCE, rtol=0, msg=name)
    assert stats.top_ids is not None
    torch.testing.assert_close(expected.gather(1, stats.top_ids), best.values, atol=TOLERANCE, rtol=0)


def test_only_what_is_asked_for_is_computed(load: Load, pairs: Pairs) -> None:
    stats = statistics(load("causal", "qwen2").model, pairs)
    assert [name for name in TokenStatistics.__dataclass_fields__ if getattr(stats, name) is not None] == ["log_probs"]


def test_more_top_tokens_than_the_vocabulary_holds(load: Load, pairs: Pairs) -> None:
    model = load("causal", "qwen2").model
    stats = statistics(model, pairs[:1], top_k=10**6)
    assert stats.top_log_probs is not None
    assert stats.top_log_probs.shape == (5, model.config.vocab_size)
    torch.testing.assert_close(stats.top_log_probs.exp().sum(1), torch.ones(5))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("row_chunk", [1024, 4])
def test_gradients_packed_and_plain_agree(
    load: Load, pairs: Pairs, architecture: str, row_chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_probs, "ROW_CHUNK", row_chunk)
    model = load("causal", architecture).model
    weights = torch.linspace(-1, 1, sum(len(c) for _, c in pairs))
    model.requires_grad_(True)
    try:
        states, targets, _, _ = completion_states(model, pairs, packed=True)
        values = differentiable_log_probs(model, states, targets, temperature=0.7)
        packed = torch.autograd.grad((values * weights).sum(), list(model.parameters()))
        expected = plain_log_softmax(model, pairs, 0.7).gather(1, targets[:, None])[:, 0]
        plain = torch.autograd.grad((expected * weights).sum(), list(model.parameters()))
    finally:
        model.requires_grad_(False)
    torch.testing.assert_close(values, expected, atol=TOLERANCE, rtol=0)
    for (name, _), a, b in zip(model.named_parameters(), packed, plain, strict=True):
        scale = max(float(b.abs().max()), 1.0)
        assert float((a - b).abs().max()) / scale < TOLERANCE, name


def test_gradients_equal_the_statistics(load: Load, pairs: Pairs) -> None:
    model = load("causal", "qwen2").model
    with torch.inference_mode():
        states, targets, _, _ = completion_states(model, pairs, packed=True)
        values = differentiable_log_probs(model, states, targets, temperature=1.3)
    torch.testing.assert_close(values, statistics(model, pairs, temperature=1.3).log_probs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("packed", [True, False])
def test_next_token_log_probs(load: Load, sequences: list[list[int]], packed: bool) -> None:
    model = load("causal", "llama").model
    wanted = [17, 3, 200]
    with torch.inference_mode():
        if not packed:
            model.set_attn_implementation("sdpa")
        try:
            values, _ = next_token_log_probs(model, sequences, wanted, packed=packed)
        finally:
            model.set_attn_implementation(PACKED)
        expected = plain_log_softmax(model, [(ids, [0]) for ids in sequences], 1.0)[:, wanted]
    torch.testing.assert_close(values, expected, atol=TOLERANCE, rtol=0)


def test_memory_of_the_logits_is_bounded_by_the_chunks(load: Load, pairs: Pairs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_probs, "ROW_CHUNK", 8)
    monkeypatch.setattr(log_probs, "VOCABULARY_CHUNK", 16)
    shapes = []
    inner = log_probs._logits

    def watched(*args: Any) -> torch.Tensor:
        logits = inner(*args)
        shapes.append(logits.shape)
        return logits

    monkeypatch.setattr(log_probs, "_logits", watched)
    statistics(load("causal", "qwen2").model, pairs)
    assert all(rows <= 8 and columns <= 16 for rows, columns in shapes)


def test_a_soft_cap_on_the_logits_is_applied(load: Load, pairs: Pairs) -> None:
    loaded = load("causal", "gemma2", head_dim=8, final_logit_softcapping=0.5)
    stats = statistics(loaded.model, pairs[:2], packed=loaded.packed)
    with torch.inference_mode():
        logits = torch.cat([loaded.model(input_ids=torch.tensor([p + c])).logits[0, len(p) - 1 : -1] for p, c in pairs[:2]])
    assert logits.abs().max() <= 0.5
    targets = torch.tensor([token for _, c in pairs[:2] for token in c])
    expected = torch.log_softmax(logits, 1).gather(1, targets[:, None])[:, 0]
    torch.testing.assert_close(stats.log_probs, expected, atol=TOLERANCE, rtol=0)
