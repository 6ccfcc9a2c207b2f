"""Packed attention on CUDA: every level of the forest is one variable-length FlashAttention call.

All segments attend causally to themselves in one call. Then, level by level, all rows that have an ancestor at that depth attend to it,
again in one call, and the parts are joined by their log-sum-exps. A forest of depth d costs d calls a layer, whatever the batch holds,
without padding and without a mask.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from rewardmesh.engine.packing import Plan

Kernel = Callable[..., tuple[torch.Tensor, torch.Tensor]]
"""(query [N, heads, width], key, value [M, key heads, width], cu_q, cu_k, max_q, max_k, causal, scale) -> output [N, heads, width] and
log-sum-exps float32 [heads, N]."""


@dataclass(frozen=True)
class _Level:
    """Runs of queries and the run of keys that each attends to.

    Attributes:
        queries: int64 [N], rows; None for all of them.
        keys: int64 [M], rows, or beyond T tokens of the cached runs in the plan's order; None for all rows.
        cu_q, cu_k: int32 [runs + 1], where each run begins.
    """

    queries: torch.Tensor | None
    keys: torch.Tensor | None
    cu_q: torch.Tensor
    cu_k: torch.Tensor
    max_q: int
    max_k: int


def varlen_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    plan: Plan,
    layer: int,
    scaling: float | None,
    kernel: Kernel | None = None,
) -> torch.Tensor:
    """Attention of one layer.

    Args:
        query: [1, heads, T, width]; key, value: [1, key heads, T, width].
        kernel: what computes a level; default torch's variable-length FlashAttention.

    Returns:
        [1, T, heads, width]
    """
    attend = kernel or _flash_varlen
    q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    levels = plan.memo(("varlen", query.device), lambda: _levels(plan, query.device))
    own, *above = levels
    output, sums = attend(q, k, v, own.cu_q, own.cu_k, own.max_q, own.max_k, True, scaling)
    cached = [segment.cached.layers[layer] for segment in plan.segments if segment.cached]
    if cached:
        k = torch.cat([k, *(pair[0][0].transpose(0, 1) for pair in cached)])
        v = torch.cat([v, *(pair[1][0].transpose(0, 1) for pair in cached)])
    for level in above:
        more, log_sum = attend(
            q[level.queries], k[level.keys], v[level.keys], level.cu_q, level.cu_k, level.max_q, level.max_k, False, scaling
        )
        mine = sums[:, level.queries]
        weight = torch.sigmoid(log_sum - mine).transpose(0, 1)[..., None].to(output.dtype)
        output[level.queries] = torch.lerp(output[level.queries], more, weight)
        sums[:, level.queries] = torch.logaddexp(mine, log_sum)
    return output[None]


def _levels(plan: Plan, device: torch.device) -> list[_Level]:
    """The causal level of all segments of the row, then one level for each depth that has descendants."""
    spans = [(s.start, s.stop) for s in plan.segments if not s.cached]
    lengths = [stop - start for start, stop in spans]
    runs = _cumulated(lengths, device)
    found = [_Level(None, None, runs, runs, max(lengths), max(lengths))]
    places: dict[int, int] = {}  # where the tokens of each cached segment begin behind the row's
    behind = len(plan.token_ids)
    for index, segment in enumerate(plan.segments):
        if segment.cached:
            places[index] = behind
            behind += segment.tokens
    by_depth: dict[int, list[int]] = {}
    for index, segment in enumerate(plan.segments):
        if plan.reaches[index] > segment.stop:
            by_depth.setdefault(len(segment.ancestors), []).append(index)
    for _, members in sorted(by_depth.items()):
        rows = [(plan.segments[i].stop, plan.reaches[i]) for i in members]
        keys = [(places.get(i, plan.segments[i].start), plan.segments[i].tokens) for i in members]
        queries = [stop - start for start, stop in rows]
        found.append(
            _Level(
                torch.cat([torch.arange(start, stop) for start, stop in rows]).to(device),
                torch.cat([torch.arange(start, start + count) for start, count in keys]).to(device),
                _cumulated(queries, device),
                _cumulated([count for _, count in keys], device),
                max(queries),
                max(count for _, count in keys),
            )
        )
    return found


def _cumulated(lengths: list[int], device: torch.device) -> torch.Tensor:
    return torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32).to(device)


def _flash_varlen(
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
    from torch.nn.attention.varlen import AuxRequest, varlen_attn

    found: Any = varlen_attn(
        q.contiguous(),
        k.contiguous(),
        v.contiguous(),
        cu_q,
        cu_k,
        max_q,
        max_k,
        return_aux=AuxRequest(lse=True),
        scale=scale,
        window_size=(-1, 0) if causal else (-1, -1),
        enable_gqa=k.shape[1] != q.shape[1],
    )
    return found[0], found[1]
