"""Attention over a plan's segments with gradients, on the CPU: one function for the whole row, so that nothing is copied between segments.

Each segment attends causally to itself; then every segment that has descendants is attended by all of them in one call. The parts are
joined by their log-sum-exps. The backward pass of each part is that of FlashAttention (Dao et al. 2022, arXiv 2205.14135, algorithm 4)
with the output and the log-sum-exp of the whole: the probabilities that it recomputes are then those of the whole softmax, and the parts'
gradients add up. Differentiating the parts by autograd instead would make a row of zeros for every slice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from rewardmesh.engine.packing import Plan


@dataclass(frozen=True)
class _Part:
    """Rows that ask and the rows that they attend to, as half-open ranges; `own` for a segment with itself, which is causal."""

    queries: slice
    keys: slice
    own: bool

    @property
    def square(self) -> bool:
        """Whether the kernel's own causal mask, which is for as many queries as keys, is the right one."""
        return self.own and self.queries == self.keys


def attention_with_gradients(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, plan: Plan, scaling: float | None, starts: tuple[int, ...] | None
) -> torch.Tensor:
    """Attention of one layer, by the softmax of the bare logits.

    Args:
        query: [1, heads, T, width]; key, value: [1, key heads, T, width].
        plan: without segments of the prefix cache.
        scaling: factor on the logits; None means 1/sqrt(width).
        starts: the first row of each segment that asks, None for all; the rows before it are zero.

    Returns:
        [1, T, heads, width]
    """
    output: torch.Tensor = _PackedAttention.apply(query, key, value, plan, scaling, starts)  # type: ignore[no-untyped-call]
    return output


class _PackedAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        plan: Plan,
        scaling: float | None,
        starts: tuple[int, ...] | None,
    ) -> torch.Tensor:
        """See `attention_with_gradients`."""
        q, k, v = _by_key_head(query, key, value)
        key_heads, repeats, tokens, width = q.shape
        row = q.new_zeros(tokens, key_heads, repeats, width)
        out = row.permute(1, 2, 0, 3)
        sums = torch.zeros(q.shape[:3], dtype=torch.promote_types(q.dtype, torch.float32))
        for part in plan.memo(("parts", starts), lambda: _parts(plan, starts)):
            found, log_sum = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                q[:, :, part.queries],
                k[:, :, part.keys],
                v[:, :, part.keys],
                0.0,
                part.square,
                attn_mask=_mask(plan, part, q.dtype),
                scale=scaling,
            )
            mine, before = out[:, :, part.queries], sums[:, :, part.queries]
            if part.own:  # the first part of these rows
                mine.copy_(found)
                before.copy_(log_sum)
            else:
                mine.lerp_(found, torch.sigmoid(log_sum - before)[..., None].to(mine.dtype))
                before.copy_(torch.logaddexp(before, log_sum))
        ctx.save_for_backward(query, key, value, row, sums)
        ctx.plan, ctx.scaling, ctx.starts = plan, scaling, starts
        return row.view(1, tokens, -1, width)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients of query, key and value."""
        query, key, value, row, sums = ctx.saved_tensors
        q, k, v = _by_key_head(query, key, value)
        out = row.permute(1, 2, 0, 3)
        upstream = gradient.reshape(row.shape).permute(1, 2, 0, 3)
        to_query, to_key, to_value = torch.zeros_like(q), torch.zeros_like(key[0]), torch.zeros_like(value[0])
        for part in ctx.plan.memo(("parts", ctx.starts), lambda: _parts(ctx.plan, ctx.starts)):
            dq, dk, dv = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                upstream[:, :, part.queries],
                q[:, :, part.queries],
                k[:, :, part.keys],
                v[:, :, part.keys],
                out[:, :, part.queries],
                sums[:, :, part.queries],
                0.0,
                part.square,
                attn_mask=_mask(ctx.plan, part, q.dtype),
                scale=ctx.scaling,
            )
            to_query[:, :, part.queries] += dq
            to_key[:, part.keys] += dk.sum(dim=1)
            to_value[:, part.keys] += dv.sum(dim=1)
        return to_query.view(query.shape), to_key[None], to_value[None], None, None, None


def _by_key_head(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """[key heads, repeats, T, width] of each: the heads that share keys side by side, the keys repeated without a copy."""
    heads, tokens, width = query.shape[1:]
    q = query.reshape(key.shape[1], heads // key.shape[1], tokens, width)
    return q, key[0][:, None].expand(q.shape), value[0][:, None].expand(*q.shape[:3], value.shape[3])


def _parts(plan: Plan, starts: tuple[int, ...] | None) -> list[_Part]:
    """Every segment with itself, then every segment with what descends from it."""
    segments = plan.segments
    first = [segment.start for segment in segments] if starts is None else starts
    own = [
        _Part(slice(start, segment.stop), slice(segment.start, segment.stop), True)
        for segment, start in zip(segments, first, strict=True)
        if start < segment.stop
    ]
    below = []
    for index, segment in enumerate(segments):
        keys = slice(segment.start, segment.stop)
        asking = [slice(first[i], segments[i].stop) for i in range(index + 1, len(segments)) if index in segments[i].ancestors]
        below += [_Part(queries, keys, False) for queries in _joined(asking)]
    return own + below


def _joined(ranges: list[slice]) -> list[slice]:
    """Ranges in ascending order, those without a gap between them made one."""
    found: list[slice] = []
    for each in ranges:
        if each.start == each.stop:
            continue
        if found and found[-1].stop == each.start:
            found[-1] = slice(found[-1].start, each.stop)
        else:
            found.append(each)
    return found


def _mask(plan: Plan, part: _Part, dtype: torch.dtype) -> torch.Tensor | None:
    """Of a segment whose last rows alone ask; one row sees every key."""
    queries, keys = part.queries.stop - part.queries.start, part.keys.stop - part.keys.start
    if not part.own or part.square or queries == 1:
        return None
    return plan.mask(queries, keys, None, dtype, torch.device("cpu"))
