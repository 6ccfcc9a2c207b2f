"""Token log-probabilities and statistics against a direct log_softmax, in chunks of any size, with gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from rewardmesh.engine import log_prob_gradient, log_probs
from rewardmesh.engine.attention import PACKED
from rewardmesh.engine.loading import LoadedModel, LoadError, load_model
from rewardmesh.engine.log_probs import (
    Extra,
    TokenStatistics,
    completion_states,
    differentiable_log_probs,
    next_token_log_probs,
    token_statistics,
)

Load = Callable[..., LoadedModel]
Pairs = list[tuple[list[int], list[int]]]
ARCHITECTURES = ("qwen2", "llama", "gpt_neox")
TOLERANCE = 1e-4
EXTRAS: tuple[Extra, ...] = ("entropy", "self_certainty", "margin")


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
        monkeypatch.setattr(log_probs, "CPU_CHUNK", chunks)
    model = load("causal", architecture).model
    stats = statistics(model, pairs, temperature=0.7, extras=EXTRAS, top_k=5)
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


@pytest.mark.parametrize("wanted", [(), ("entropy",), ("self_certainty",), ("margin",), ("entropy", "margin")])
def test_only_what_is_asked_for_is_computed(load: Load, pairs: Pairs, wanted: tuple[Extra, ...]) -> None:
    model = load("causal", "qwen2").model
    stats, everything = statistics(model, pairs, extras=wanted), statistics(model, pairs, extras=EXTRAS)
    fields = [name for name in TokenStatistics.__dataclass_fields__ if getattr(stats, name) is not None]
    assert fields == ["log_probs", *wanted]
    for name in fields:
        torch.testing.assert_close(getattr(stats, name), getattr(everything, name), atol=1e-5, rtol=0)


@pytest.mark.parametrize("rows_per_chunk", [256, 3])
def test_a_state_is_computed_once_for_all_its_targets(
    load: Load, pairs: Pairs, rows_per_chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_probs, "CPU_CHUNK", (rows_per_chunk, 100))
    seen = []
    inner = log_probs._logits

    def watched(*args: Any) -> torch.Tensor:
        seen.append(len(args[1]))
        return inner(*args)

    monkeypatch.setattr(log_probs, "_logits", watched)
    model = load("causal", "llama").model
    states = torch.randn(7, model.config.hidden_size)
    rows = torch.tensor([5, 0, 5, 2, 2, 2, 6, 5])
    targets = torch.tensor([300, 1, 2, 300, 4, 5, 6, 2])
    options: dict[str, Any] = {"extras": EXTRAS, "top_k": 3, "temperature": 0.7}
    with torch.inference_mode():
        together = token_statistics(model, states, targets, rows=rows, **options)
        assert sum(seen) == 4 * 4, "four states, four runs of the vocabulary"
        apart = token_statistics(model, states[rows], targets, **options)
    for name in TokenStatistics.__dataclass_fields__:
        torch.testing.assert_close(getattr(together, name), getattr(apart, name), atol=1e-5, rtol=0)


def test_large_logits_keep_their_precision(load: Load) -> None:
    model = load("causal", "qwen2").model
    states = torch.randn(40, model.config.hidden_size) * 300
    targets = torch.arange(40)
    with torch.inference_mode():
        stats = token_statistics(model, states, targets, extras=EXTRAS)
        expected = torch.log_softmax((states @ model.lm_head.weight.T).double(), dim=1)
    chosen = expected.gather(1, targets[:, None])[:, 0]
    torch.testing.assert_close(stats.log_probs.double(), chosen, atol=1e-3, rtol=1e-6)
    assert stats.entropy is not None
    torch.testing.assert_close(stats.entropy.double(), -(expected.exp() * expected).sum(1), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("columns", [64, 70, 2048])
@pytest.mark.parametrize("keep", [1, 2, 4, 5])
def test_the_greatest_few(columns: int, keep: int) -> None:
    logits = torch.randn(50, columns, generator=torch.Generator().manual_seed(0)).mul_(3).round_()  # with ties
    values, ids = log_probs._greatest(logits, keep)
    torch.testing.assert_close(values, logits.topk(keep, dim=1).values, atol=0, rtol=0)
    torch.testing.assert_close(logits.gather(1, ids), values, atol=0, rtol=0)
    assert all(len(set(row)) == keep for row in ids.tolist()), "no column twice"


def test_nothing_to_score(load: Load) -> None:
    model = load("causal", "qwen2").model
    stats = token_statistics(model, torch.empty(0, model.config.hidden_size), torch.empty(0, dtype=torch.int64), extras=EXTRAS, top_k=2)
    assert stats.log_probs.shape == (0,)


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
    monkeypatch.setattr(log_prob_gradient, "ROW_CHUNK", row_chunk)
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
    monkeypatch.setattr(log_probs, "CPU_CHUNK", (8, 16))
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
    loaded.model.set_attn_implementation("eager")
    with torch.inference_mode():
        logits = torch.cat([loaded.model(input_ids=torch.tensor([p + c])).logits[0, len(p) - 1 : -1] for p, c in pairs[:2]])
    assert logits.abs().max() <= 0.5
    targets = torch.tensor([token for _, c in pairs[:2] for token in c])
    expected = torch.log_softmax(logits, 1).gather(1, targets[:, None])[:, 0]
    torch.testing.assert_close(stats.log_probs, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(("architecture", "changes"), [("granite", {"logits_scaling": 4.0}), ("cohere", {"logit_scale": 0.0625})])
def test_heads_that_scale_their_logits(load: Load, pairs: Pairs, architecture: str, changes: dict[str, float]) -> None:
    model = load("causal", architecture, **changes).model
    stats = statistics(model, pairs)
    with torch.inference_mode():
        expected = plain_log_softmax(model, pairs, 1.0)
    targets = torch.tensor([token for _, c in pairs for token in c])
    torch.testing.assert_close(stats.log_probs, expected.gather(1, targets[:, None])[:, 0], atol=TOLERANCE, rtol=0)


def test_a_head_that_does_more_is_refused(make_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_model("causal", "granite", logits_scaling=4.0)
    inner = log_probs._logits
    monkeypatch.setattr(log_probs, "_logits", lambda *args: inner(*args).mul_(4.0))
    with pytest.raises(LoadError, match="its logits are not those of its head"):
        load_model(path, "causal", name="tiny", version=1)
