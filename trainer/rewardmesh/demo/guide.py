"""The guide: a copy of the demo's policy, tuned offline on pairs of answers, whose log-ratios to the policy are rewards of tokens.

Rafailov et al. 2023 (arXiv 2305.18290), equation 7. What such a policy says beyond its reference, beta (log pi - log pi_ref), is a
reward of every token (Rafailov et al. 2024, arXiv 2404.12358); RTO and TGDPO learn from it. Departure: the pairs are written for their
quality, and no policy drew them.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import Field

from rewardmesh.demo.answers import pair_of_different_quality
from rewardmesh.demo.problems import generate
from rewardmesh.engine.forward import why_not_packed
from rewardmesh.engine.loading import read_model
from rewardmesh.engine.log_probs import completion_states, differentiable_log_probs
from rewardmesh.trainer.credit.layout import TokenLayout
from rewardmesh.trainer.fitting import FitConfig, OnFit, fit
from rewardmesh.trainer.losses import sigmoid_preference_loss
from rewardmesh.trainer.sft import Tokens, tokenise

HELDOUT = 200
"""Pairs that the accuracy is measured on."""


class GuideConfig(FitConfig):
    """How the guide is tuned; a policy that is trained already needs small steps."""

    steps: int = 120
    learning_rate: float = 3e-4
    warmup_steps: int = 10
    optimiser: Literal["muon", "adamw"] = "adamw"
    beta: float = Field(default=0.1, gt=0, description="of its preference loss: nats of log-ratio times beta are its reward")


def train_guide(policy: str, tokenizer: Any, seed: int, config: GuideConfig, on_step: OnFit | None = None) -> tuple[Any, dict[str, float]]:
    """A tuned copy of the policy in the directory `policy`.

    Returns:
        The model; loss at the end, and the share of pairs it never saw whose better answer has the greater log-ratio.

    Raises:
        LoadError: the policy cannot be read.
        TrainingFailed: the loss is not finite.
    """
    rng = random.Random(seed)
    pairs: list[tuple[Tokens, Tokens]] = []
    for problem in generate(config.steps * config.batch_size + HELDOUT, seed, "train"):
        better, worse = pair_of_different_quality(problem, rng)
        pairs.append((tokenise(tokenizer, problem.question, better.text), tokenise(tokenizer, problem.question, worse.text)))
    train, heldout = pairs[HELDOUT:], pairs[:HELDOUT]
    model, reference = (read_model(policy, "causal")[0] for _ in range(2))
    packed = all([not why_not_packed(model), not why_not_packed(reference)])

    def margins(batch: Sequence[tuple[Tokens, Tokens]]) -> torch.Tensor:
        sides = [side for pair in batch for side in pair]
        ratio = _sums(model, sides, packed=packed) - _without_gradient(reference, sides, packed=packed)
        return ratio[0::2] - ratio[1::2]

    def loss_of(batch: Sequence[int]) -> torch.Tensor:
        found = margins([train[i] for i in batch])
        return sigmoid_preference_loss(found, torch.ones_like(found), config.beta).mean()

    lengths = [sum(len(ids) for side in pair for ids in side) for pair in train]
    loss = fit(model, len(train), loss_of, config.model_copy(update={"seed": seed}), lengths=lengths, on_step=on_step)
    with torch.no_grad():
        accuracy = float((margins(heldout) > 0).float().mean())
    return model, {"loss": loss, "heldout_pair_accuracy": accuracy}


def _without_gradient(model: Any, examples: Sequence[Tokens], *, packed: bool) -> torch.Tensor:
    with torch.no_grad():
        return _sums(model, examples, packed=packed)


def _sums(model: Any, examples: Sequence[Tokens], *, packed: bool) -> torch.Tensor:
    """float64 [n]: log-probability of each completion, nats."""
    states, targets, lengths, _ = completion_states(model, examples, packed=packed)
    values = differentiable_log_probs(model, states, targets)
    return TokenLayout(tuple(lengths)).sum(values)
