"""Attention over a plan's segments, registered with transformers as `rewardmesh_packed`.

Every segment attends to its ancestors and causally to itself. Any decoder-only architecture that uses transformers'
`AttentionInterface` runs packed without a change to its code: the plan travels as a keyword argument of the forward call.

Two ways, chosen by length. A short ancestor's keys are laid before each segment's own: one call a segment, and gradients flow. A long
ancestor is attended by all its descendants in one call, and the partial results are joined by their log-sum-exps (as FlashAttention
joins its blocks, Dao et al. 2022, section 3.1): its keys are not copied for each descendant and no mask is read. On CUDA in half
precision every ancestor counts as long, and a whole level of the forest is one variable-length call (`varlen`). With gradients on a CPU
every ancestor counts as long too, in one function for the whole row (`attention_gradient`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from rewardmesh.engine.attention_gradient import attention_with_gradients
from rewardmesh.engine.packing import Plan, Segment
from rewardmesh.engine.varlen import varlen_attention

PACKED = "rewardmesh_packed"
LONG_TOKENS = 256
"""From this length on, one call for all descendants costs less on a CPU than laying the ancestor before each of them."""


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
        sliding_window: a token sees so many tokens, itself included; None for all before it.
        softcap: logits become softcap * tanh(logits / softcap) (Gemma 2).
        s_aux: [heads], a logit that takes part in each softmax and has no value (attention sinks).

    Raises:
        ValueError: no plan.

    Returns:
        ([1, T, heads, width], None); in the last layer, rows that nobody wants may be zero.
    """
    if plan is None:
        raise ValueError(f"{PACKED} attention was called without a plan")
    layer = module.layer_idx
    for index, segment in enumerate(plan.segments):
        if segment.path_ids is not None:
            span = slice(segment.start, segment.stop)
            plan.kept.setdefault(index, []).append((key[:, :, span].clone(), value[:, :, span].clone()))
    rules = _Rules(scaling, dropout, sliding_window, softcap, s_aux)
    if rules.plain and query.is_cuda and query.dtype != torch.float32 and not torch.is_grad_enabled():
        return varlen_attention(query, key, value, plan, layer, scaling), None
    # In the last layer, only rows that are wanted need ask.
    starts = plan.query_starts if layer == module.config.num_hidden_layers - 1 else None
    if rules.plain and _has_gradient(query, key, value) and dropout == 0 and not plan.uses_cache:
        return attention_with_gradients(query, key, value, plan, scaling, starts), None
    return _Row(query, key, value, plan, layer, rules).attend(starts), None


def _has_gradient(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> bool:
    """Whether `attention_with_gradients` can compute it and is needed: with gradients, on a CPU."""
    needed = torch.is_grad_enabled() and (query.requires_grad or key.requires_grad or value.requires_grad)
    return needed and query.device.type == "cpu" and query.shape[3] == value.shape[3]


@dataclass(frozen=True)
class _Rules:
    """How a layer attends: see `packed_attention`."""

    scaling: float | None
    dropout: float
    window: int | None
    softcap: float | None
    sinks: torch.Tensor | None

    @property
    def plain(self) -> bool:
        """Whether every token sees all before it, by the softmax of the bare logits."""
        return self.window is None and self.softcap is None and self.sinks is None

    def attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, plan: Plan, joined: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The last rows of a run of keys, causally: [1, heads, n, width]; with log-sum-exps when they are `joined` with others."""
        queries, keys = q.shape[2], k.shape[2]
        window = self.window if self.window is not None and self.window < keys else None
        causal = queries == keys and window is None
        if self.softcap is not None or self.sinks is not None:
            return self._by_formula(q, k, v, plan.mask(queries, keys, window, q.dtype, q.device)), None
        mask = None if causal or (queries == 1 and window is None) else plan.mask(queries, keys, window, q.dtype, q.device)
        if joined:
            return _flash(q, k, v, causal, mask, self.scaling)
        return scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=self.dropout, is_causal=causal, scale=self.scaling), None

    def _by_formula(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        logits = q @ k.transpose(2, 3) * (self.scaling or q.shape[3] ** -0.5)
        if self.softcap is not None:
            logits = torch.tanh(logits / self.softcap) * self.softcap
        logits = (logits + mask).float()
        if self.sinks is not None:
            sink = self.sinks.float().reshape(1, -1, 1, 1).expand(1, logits.shape[1], logits.shape[2], 1)
            logits = torch.cat([logits, sink], dim=3)
        weights = torch.softmax(logits, dim=3)[..., : k.shape[2]].to(v.dtype)
        return torch.dropout(weights, self.dropout, self.dropout > 0) @ v


class _Row:
    """One layer's queries, keys and values of a packed row."""

    def __init__(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        plan: Plan,
        layer: int,
        rules: _Rules,
    ) -> None:
        self._repeats = query.shape[1] // key.shape[1]
        self._query, self._key, self._value = query, self._repeated(key), self._repeated(value)
        self._plan = plan
        self._layer = layer
        self._rules = rules
        long = rules.plain and query.device.type == "cpu" and not torch.is_grad_enabled()
        self._long = [long and segment.tokens >= LONG_TOKENS for segment in plan.segments]

    def attend(self, starts: tuple[int, ...] | None) -> torch.Tensor:
        """[1, T, heads, width]; `starts`: the first row of each segment that asks, None for all."""
        plan = self._plan
        outputs, sums = [], []
        joined = any(self._long)
        for index, segment in enumerate(plan.segments):
            if segment.cached:
                continue
            start = segment.start if starts is None else starts[index]
            output, log_sum = self._own(segment, start, joined)
            if start > segment.start:
                output = torch.nn.functional.pad(output, (0, 0, start - segment.start, 0))
                log_sum = torch.nn.functional.pad(log_sum, (start - segment.start, 0)) if log_sum is not None else None
            outputs.append(output)
            sums.append(log_sum)
        row = torch.cat(outputs, dim=2)
        if joined:
            self._join_long(row, torch.cat([s for s in sums if s is not None], dim=2), starts)
        return row.transpose(1, 2).contiguous()

    def _own(self, segment: Segment, start: int, joined: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        """A segment's rows from `start` on over its short ancestors and itself; with log-sum-exps when they are needed."""
        heads, width = self._query.shape[1], self._query.shape[3]
        queries = segment.stop - start
        if not queries:
            empty = self._query.new_zeros(1, heads, 0, width)
            return empty, empty[..., 0].float() if joined else None
        spans = [i for i in segment.ancestors if not self._long[i]]
        keys, values = [], []
        for before in (self._plan.segments[i] for i in spans):
            k, v = self._key_values(before)
            keys.append(k)
            values.append(v)
        own = slice(segment.start, segment.stop)
        k = torch.cat([*keys, self._key[:, :, own]], dim=2) if keys else self._key[:, :, own]
        v = torch.cat([*values, self._value[:, :, own]], dim=2) if values else self._value[:, :, own]
        q = self._query[:, :, start : segment.stop]
        return self._rules.attend(q, k, v, self._plan, joined)

    def _join_long(self, row: torch.Tensor, sums: torch.Tensor, starts: tuple[int, ...] | None) -> None:
        """Add to the row what its descendants get from each long segment; in place."""
        for index, segment in enumerate(self._plan.segments):
            first, end = segment.stop, self._plan.reaches[index]
            if not self._long[index] or first == end:
                continue
            k, v = self._key_values(segment)
            for start, stop in self._asking(index, first, end, starts):
                output, log_sum = _flash(self._query[:, :, start:stop], k, v, False, None, self._rules.scaling)
                mine = sums[:, :, start:stop]
                part = row[:, :, start:stop]
                part.lerp_(output, torch.sigmoid(log_sum - mine)[..., None].to(part.dtype))
                mine.copy_(torch.logaddexp(mine, log_sum))

    def _asking(self, index: int, first: int, end: int, starts: tuple[int, ...] | None) -> list[tuple[int, int]]:
        """Ranges of the descendants' rows that ask."""
        if starts is None:
            return [(first, end)]
        below = (i for i, segment in enumerate(self._plan.segments) if index in segment.ancestors)
        return [(starts[i], self._plan.segments[i].stop) for i in below if starts[i] < self._plan.segments[i].stop]

    def _key_values(self, segment: Segment) -> tuple[torch.Tensor, torch.Tensor]:
        if segment.cached:
            key, value = segment.cached.layers[self._layer]
            return self._repeated(key), self._repeated(value)
        span = slice(segment.start, segment.stop)
        return self._key[:, :, span], self._value[:, :, span]

    def _repeated(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.repeat_interleave(self._repeats, dim=1) if self._repeats > 1 else tensor


def _flash(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, causal: bool, mask: torch.Tensor | None, scale: float | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention on the CPU with its log-sum-exps: [1, heads, n, width] and float32 [1, heads, n]."""
    output, log_sum = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, 0.0, causal, attn_mask=mask, scale=scale
    )
    return output, log_sum


AttentionInterface.register(PACKED, packed_attention)
