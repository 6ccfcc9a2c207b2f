"""Supervised training of small and middling models: the step, the schedule and the optimiser that fine-tuning and reward models share.

Hidden matrices go to Muon (momentum orthogonalised by a Newton-Schulz iteration; Jordan et al. 2024), which needs fewer steps than AdamW
from random weights; embeddings, heads, norms and biases go to AdamW.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

OnFit = Callable[[int, int, float], None]
"""Called after every step with (step from 1, steps in all, loss)."""


class FitConfig(BaseModel):
    """How long and how fast to train."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int = Field(default=500, ge=1, description="optimiser steps")
    batch_size: int = Field(default=16, ge=1, description="examples a step")
    learning_rate: float = Field(default=2e-3, gt=0, description="greatest rate, after the warm-up")
    warmup_steps: int = Field(default=30, ge=0, description="steps over which the rate rises")
    final_fraction: float = Field(default=0.1, ge=0, le=1, description="share of the rate left at the last step; the fall is linear")
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    optimiser: Literal["muon", "adamw"] = Field(default="muon", description="muon from random weights, adamw from trained ones")
    seed: int = 0


class TrainingFailed(Exception):
    """The loss is no number any more; the message says at which step and what would help."""


def fit(
    model: torch.nn.Module,
    examples: int,
    loss_of: Callable[[Sequence[int]], Tensor],
    config: FitConfig,
    *,
    lengths: Sequence[int] | None = None,
    on_step: OnFit | None = None,
) -> float:
    """Train a model in place; returns the mean loss of the last tenth of the steps.

    Args:
        examples: how many there are; each is used once an epoch.
        loss_of: mean loss of the examples with these indices, with gradients.
        lengths: tokens of each example; examples of like length then share a batch.

    Raises:
        TrainingFailed: the loss is not finite.
    """
    torch.manual_seed(config.seed)
    model.train()
    model.requires_grad_(True)
    optimisers = _optimisers(model, config)
    losses: list[float] = []
    for step, batch in enumerate(_batches(examples, lengths, config), start=1):
        rate = _rate(step, config)
        for optimiser in optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate
            optimiser.zero_grad(set_to_none=True)
        loss = loss_of(batch)
        losses.append(loss.item())
        if not np.isfinite(losses[-1]):
            raise TrainingFailed(f"the loss of step {step} is {losses[-1]}; try a smaller learning_rate than {config.learning_rate}")
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        for optimiser in optimisers:
            optimiser.step()
        if on_step:
            on_step(step, config.steps, losses[-1])
    model.eval()
    model.requires_grad_(False)
    return float(np.mean(losses[-max(len(losses) // 10, 1) :]))


def _optimisers(model: torch.nn.Module, config: FitConfig) -> list[torch.optim.Optimizer]:
    hidden: list[torch.nn.Parameter] = []
    rest: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        inner = parameter.ndim == 2 and not any(part in name for part in ("embed", "lm_head", "score", "classifier"))
        (hidden if inner and config.optimiser == "muon" else rest).append(parameter)
    optimisers: list[Any] = []
    if hidden:
        optimisers.append(
            torch.optim.Muon(hidden, lr=config.learning_rate, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw", ns_steps=4)
        )
    optimisers.append(torch.optim.AdamW(rest, lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=config.weight_decay, fused=True))
    return optimisers


def _rate(step: int, config: FitConfig) -> float:
    if step <= config.warmup_steps:
        return config.learning_rate * step / config.warmup_steps
    done = (step - config.warmup_steps) / max(config.steps - config.warmup_steps, 1)
    return config.learning_rate * (1 - (1 - config.final_fraction) * done)


def _batches(examples: int, lengths: Sequence[int] | None, config: FitConfig) -> Iterator[list[int]]:
    """`steps` batches, every example once an epoch; within a window of 16 batches examples are sorted by length."""
    rng = np.random.default_rng(config.seed)
    size = min(config.batch_size, examples)
    made = 0
    while made < config.steps:
        order = rng.permutation(examples).tolist()
        for start in range(0, examples - size + 1, size * 16):
            window = order[start : start + size * 16]
            if lengths is not None:
                window.sort(key=lambda index: lengths[index])
            batches = [window[i : i + size] for i in range(0, len(window) - size + 1, size)]
            for place in rng.permutation(len(batches)):
                if made == config.steps:
                    return
                made += 1
                yield batches[place]
