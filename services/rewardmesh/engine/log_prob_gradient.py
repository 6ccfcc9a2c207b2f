"""Log-probabilities of given tokens with gradients: the head's product, the softmax over the vocabulary and both their gradients in one.

Forward, the softmax of a run of rows stays in memory where there is room; backward, p - onehot(target) times the upstream gradient is made
in its place and meets the two products of the head. Without room the softmax is computed again. Autograd would keep the logits and their
log-softmax and make two tensors more of that size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from rewardmesh.engine.linear import linear, outer_linear

ROW_CHUNK = 512
"""Rows whose logits over the whole vocabulary are made at a time."""
KEPT_BYTES = 256 * 2**20
"""Most memory for the softmax of one batch; rows beyond are computed twice."""


@dataclass(frozen=True)
class LogitRule:
    """From the head's products x to logits: cap * tanh(scale * x / cap) / temperature, or scale * x / temperature without a cap."""

    scale: float = 1.0
    cap: float | None = None
    temperature: float = 1.0

    @property
    def factor(self) -> float:
        """On the products, before the cap where there is one."""
        return self.scale / (self.cap or self.temperature)

    @property
    def capped_factor(self) -> float:
        """On the tanh."""
        return (self.cap or 1.0) / self.temperature


def token_log_probs(
    states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor, rule: LogitRule
) -> torch.Tensor:
    """Log-probabilities of `targets`, nats.

    Args:
        states: [N, width]; weight: [V, width]; bias: [V]; targets: int64 [N].

    Returns:
        float32 [N], or float64 where the states are.
    """
    found: torch.Tensor = _TokenLogProbs.apply(states, weight, bias, targets, rule)  # type: ignore[no-untyped-call]
    return found


class _TokenLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor, rule: LogitRule
    ) -> torch.Tensor:
        """See `token_log_probs`."""
        ctx.save_for_backward(states, weight, bias, targets)
        ctx.rule = rule
        keeps = rule.cap is None and any(ctx.needs_input_grad)  # beside the softmax, the cap's gradient takes the logits
        room = KEPT_BYTES if keeps else 0
        kept: list[torch.Tensor | None] = []
        found = []
        for start in range(0, len(targets), ROW_CHUNK):
            rows = slice(start, start + ROW_CHUNK)
            logits = _logits(states[rows], weight, bias, rule)
            chosen = logits.gather(1, targets[rows, None])[:, 0]
            softmax = torch.softmax(logits, dim=1)
            # The softmax of the greatest logit is 1 / sum(exp(z - greatest)): no second pass of exponentials.
            found.append(chosen - logits.amax(dim=1) + softmax.amax(dim=1).log())
            room -= softmax.numel() * softmax.element_size()
            kept.append(softmax if room >= 0 else None)
        ctx.kept = kept
        return torch.cat(found)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients of states, weight and bias, those that are needed."""
        states, weight, bias, targets = ctx.saved_tensors
        needs_states, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        to_states = torch.empty_like(states) if needs_states else None
        to_weight: torch.Tensor | None = None
        to_bias = torch.zeros_like(bias) if needs_bias else None
        kept, ctx.kept = ctx.kept, [None] * len(ctx.kept)  # what follows overwrites it
        for place, softmax in enumerate(kept):
            rows = slice(place * ROW_CHUNK, (place + 1) * ROW_CHUNK)
            products = _product_gradient(states[rows], weight, bias, targets[rows], upstream[rows], ctx.rule, softmax).to(weight.dtype)
            if to_states is not None:
                to_states[rows] = outer_linear(products, weight.t())
            if needs_weight:
                part = outer_linear(products.t(), states[rows].t())
                to_weight = part if to_weight is None else to_weight.add_(part)
            if to_bias is not None:
                to_bias += products.sum(dim=0)
        return to_states, to_weight, to_bias, None, None


def _logits(states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, rule: LogitRule) -> torch.Tensor:
    """float32 [rows, V], in new memory."""
    logits = linear(states, weight, bias)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if rule.factor != 1:
        logits.mul_(rule.factor)
    if rule.cap is not None:
        logits.tanh_().mul_(rule.capped_factor)
    return logits


def _product_gradient(
    states: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    targets: torch.Tensor,
    upstream: torch.Tensor,
    rule: LogitRule,
    softmax: torch.Tensor | None,
) -> torch.Tensor:
    """float32 [rows, V]: gradient with respect to the head's products, in the place of `softmax` where it was kept."""
    slope: torch.Tensor | None = None
    if softmax is None:
        logits = _logits(states, weight, bias, rule)
        softmax = torch.softmax(logits, dim=1)
        if rule.cap is not None:
            slope = logits.div_(rule.capped_factor).square_().neg_().add_(1).mul_(rule.capped_factor)
    scale = upstream * rule.factor
    softmax.mul_(-scale[:, None])
    softmax[torch.arange(len(targets), device=targets.device), targets] += scale
    return softmax if slope is None else softmax.mul_(slope)
