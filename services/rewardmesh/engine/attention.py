"""Attention over a plan's segments, registered with transformers as `rewardmesh_packed`.

Every segment attends to its ancestors and causally to itself. Any decoder-only architecture that uses transformers'
`AttentionInterface` runs packed without a change to its code: the plan travels as a keyword argument of the forward call.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from rewardmesh.engine.packing import Plan

PACKED = "rewardmesh_packed"


def packed_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    plan: Plan | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of one layer.

    Args:
        query: [1, heads, T, width]; key, value: [1, key heads, T, width].
        attention_mask: unused, the plan is the mask.
        scaling: factor on the logits; None means 1/sqrt(width).
        dropout: probability; 0 outside training.
        plan: how the batch lies in the row; required.
        sliding_window, softcap, s_aux: features of some architectures that a plan cannot express.

    Raises:
        ValueError: no plan, or a feature that cannot be packed; found when the model is loaded, which then runs plainly.

    Returns:
        ([1, T, heads, width], None)
    """
    if plan is None:
        raise ValueError(f"{PACKED} attention was called without a plan")
    if softcap is not None or s_aux is not None:
        raise ValueError("soft-capped attention or attention sinks")
    if sliding_window is not None and sliding_window < module.config.max_position_embeddings:
        raise ValueError(f"a sliding window of {sliding_window} tokens")
    repeats = query.shape[1] // key.shape[1]
    if repeats > 1:
        key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    outputs = []
    for segment in plan.segments:
        q = query[:, :, segment.start : segment.stop]
        if not segment.ancestors:
            k, v, mask = key[:, :, segment.start : segment.stop], value[:, :, segment.start : segment.stop], None
        else:
            spans = [*(plan.segments[i] for i in segment.ancestors), segment]
            k = torch.cat([key[:, :, s.start : s.stop] for s in spans], dim=2)
            v = torch.cat([value[:, :, s.start : s.stop] for s in spans], dim=2)
            mask = _causal_mask(q.shape[2], k.shape[2], q.device)
        attended = scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=mask is None, scale=scaling)
        outputs.append(attended)
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous(), None


def _causal_mask(queries: int, keys: int, device: torch.device) -> torch.Tensor:
    """bool [queries, keys]: the last query sees every key, each earlier one a key less."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril_(diagonal=keys - queries)


AttentionInterface.register(PACKED, packed_attention)
