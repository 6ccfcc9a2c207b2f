"""The CUDA path's plan of levels, computed here by a plain kernel: it gives what the CPU path gives. The kernel itself needs a GPU."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from rewardmesh.engine.attention import packed_attention
from rewardmesh.engine.loading import LoadedModel
from rewardmesh.engine.packing import make_plan
from rewardmesh.engine.prefix_cache import PrefixCache
from rewardmesh.engine.varlen import varlen_attention


def kernel(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_q: torch.Tensor,
    cu_k: torch.Tensor,
    max_q: int,
    max_k: int,
    causal: bool,
    scale: float | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What a variable-length attention kernel computes, run by run, from its definition."""
    assert max_q == int(cu_q.diff().max())
    assert max_k == int(cu_k.diff().max())
    assert len(q) == int(cu_q[-1])
    assert len(k) == int(cu_k[-1])
    repeats = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(repeats, dim=1), v.repeat_interleave(repeats, dim=1)
    outputs, sums = [], []
    for run in range(len(cu_q) - 1):
        mine, theirs = slice(int(cu_q[run]), int(cu_q[run + 1])), slice(int(cu_k[run]), int(cu_k[run + 1]))
        logits = torch.einsum("qhd,khd->hqk", q[mine], k[theirs]) * (scale or q.shape[2] ** -0.5)
        if causal:
            logits = logits.masked_fill(torch.ones(logits.shape[1:], dtype=torch.bool).triu_(1), -torch.inf)
        outputs.append(torch.einsum("hqk,khd->qhd", logits.softmax(2), v[theirs]))
        sums.append(logits.logsumexp(2))
    return torch.cat(outputs), torch.cat(sums, dim=1)


def test_levels_give_what_segments_give(sequences: list[list[int]]) -> None:
    plan = make_plan(sequences)
    tokens = len(plan.token_ids)
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, heads, tokens, 8) for heads in (4, 2, 2))
    module = SimpleNamespace(layer_idx=0, config=SimpleNamespace(num_hidden_layers=2))
    with torch.inference_mode():
        expected, _ = packed_attention(module, query, key, value, None, plan=plan)
        found = varlen_attention(query, key, value, plan, 0, None, kernel)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_levels_read_cached_prefixes(load: object, sequences: list[list[int]]) -> None:
    assert callable(load)
    loaded: LoadedModel = load("causal", "qwen2")
    cache = PrefixCache(2**30)
    first = [len(ids) - 1 for ids in sequences]
    from rewardmesh.engine.forward import sequence_states

    with torch.inference_mode():
        sequence_states(loaded.model, sequences, packed=True, first=first, prefixes=cache)
        plan = make_plan(sequences, first=first, prefixes=cache)
        assert any(segment.cached for segment in plan.segments)
        torch.manual_seed(0)
        tokens = len(plan.token_ids)
        query, key, value = (torch.randn(1, heads, tokens, 8) for heads in (4, 2, 2))
        module = loaded.model.model.layers[0].self_attn
        expected, _ = packed_attention(module, query, key, value, None, plan=plan)
        found = varlen_attention(query, key, value, plan, 0, None, kernel)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_real_kernel(dtype: torch.dtype, sequences: list[list[int]]) -> None:
    plan = make_plan(sequences)
    tokens = len(plan.token_ids)
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, heads, tokens, 64) for heads in (4, 2, 2))
    expected = varlen_attention(query, key, value, plan, 0, None, kernel)
    with torch.inference_mode():
        q, k, v = (tensor.to("cuda", dtype) for tensor in (query, key, value))
        found = varlen_attention(q, k, v, make_plan(sequences), 0, None)
    torch.testing.assert_close(found.float().cpu(), expected, atol=2e-2, rtol=2e-2)
