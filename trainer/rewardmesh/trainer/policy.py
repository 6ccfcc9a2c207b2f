"""The policy being trained, its optional critic, and the packed training step.

The forward pass is the engine's: the rollouts of a prompt share that prompt, nothing is padded. Log-probabilities are taken at the
sampling temperature, with dropout off, so that they are those of the distribution that was sampled.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rewardmesh.engine.forward import why_not_packed
from rewardmesh.engine.linear import use_linear
from rewardmesh.engine.loading import read_model
from rewardmesh.engine.log_probs import completion_states, differentiable_log_probs
from rewardmesh.trainer.algorithms import Algorithm
from rewardmesh.trainer.credit import Credit, micro_batches
from rewardmesh.trainer.recipe import Recipe
from rewardmesh.trainer.samples import Rollout


class Critic(torch.nn.Module):
    """A value for every completion token: the policy's own backbone, copied, under a linear head that starts at zero."""

    def __init__(self, path: str, device: str) -> None:
        super().__init__()
        model, _ = read_model(path, "causal", device=device)
        self.packed = not why_not_packed(model)
        self.base_model = model.base_model
        use_linear(self.base_model)
        self.head = torch.nn.Linear(model.config.hidden_size, 1, device=device)
        torch.nn.init.zeros_(self.head.weight)
        torch.nn.init.zeros_(self.head.bias)
        self.requires_grad_(True)

    def values(self, rollouts: Sequence[Rollout]) -> Tensor:
        """float32 [N]: the value before each completion token is written, completions in order."""
        states, _, _, _ = completion_states(self, _pairs(rollouts), packed=self.packed)
        values: Tensor = self.head(states)[:, 0].float()
        return values


class Policy:
    """Model, tokenizer, optimiser and schedule.

    Args:
        recipe: sizes, rates and temperature.
        algorithm: whether a critic is needed.
        path: model directory to start from (the recipe's, or a checkpoint's).
    """

    def __init__(self, recipe: Recipe, algorithm: Algorithm, path: str) -> None:
        self._recipe = recipe
        self._options = recipe.optimiser
        self.model, self.tokenizer = read_model(path, "causal", device=recipe.device)
        use_linear(self.model)
        self.why_plain = why_not_packed(self.model)
        self.model.requires_grad_(True)
        self.critic = Critic(path, recipe.device) if algorithm.needs_critic else None
        groups: list[dict[str, Any]] = [{"params": list(self.model.parameters()), "lr": self._options.learning_rate}]
        if self.critic:
            groups.append({"params": list(self.critic.parameters()), "lr": self._options.critic_learning_rate})
        self.optimiser = torch.optim.AdamW(groups, betas=self._options.betas, weight_decay=self._options.weight_decay, fused=True)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimiser, self._rate)

    def log_probs(self, rollouts: Sequence[Rollout]) -> Tensor:
        """float32 [N] log-probabilities of the completion tokens, completions in order; with gradients where they are enabled."""
        states, targets, _, _ = completion_states(self.model, _pairs(rollouts), packed=not self.why_plain)
        return differentiable_log_probs(self.model, states, targets, temperature=self._recipe.sampling.temperature)

    def old_values(self, rollouts: Sequence[Rollout]) -> Tensor | None:
        """Values of the critic before the update, without gradients; None without a critic. Rollouts without tokens have none."""
        written = [rollout for rollout in rollouts if rollout.length]
        if self.critic is None:
            return None
        if not written:
            return torch.zeros(0)
        with torch.no_grad():
            return self.critic.values(written).cpu()

    def update(self, algorithm: Algorithm, credit: Credit, rng: np.random.Generator) -> dict[str, float]:
        """All optimiser steps of one batch; returns metrics averaged over them."""
        totals: dict[str, float] = defaultdict(float)
        taken = skipped = 0
        for _ in range(algorithm.epochs):
            for minibatch in algorithm.minibatches(credit, rng):
                self.optimiser.zero_grad(set_to_none=True)
                for name, value in self.backward(algorithm, minibatch).items():
                    totals[name] += value
                norm = float(torch.nn.utils.clip_grad_norm_(self._parameters(), self._options.max_grad_norm))
                totals["grad_norm"] += norm
                taken += 1
                if np.isfinite(norm):
                    self.optimiser.step()
                else:  # one poisoned batch must not poison the weights
                    skipped += 1
        self.schedule.step()
        metrics = {name: value / max(taken, 1) for name, value in totals.items()}
        metrics.update(optimiser_steps=float(taken), skipped_non_finite=float(skipped), learning_rate=float(self.schedule.get_last_lr()[0]))
        return metrics

    def backward(self, algorithm: Algorithm, minibatch: Credit) -> dict[str, float]:
        """Add the gradient of a minibatch's loss to the parameters' gradients, micro-batch by micro-batch; returns its metrics."""
        totals: dict[str, float] = defaultdict(float)
        for part in micro_batches(minibatch, self._options.micro_batch_tokens):
            values = self.critic.values(part.rollouts) if self.critic else None
            output = algorithm.loss(part, self.log_probs(part.rollouts), values)
            output.loss.backward()  # type: ignore[no-untyped-call]
            for name, value in output.metrics.items():
                totals[name] += value
        return dict(totals)

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs beside the model directory."""
        return {
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "critic": self.critic.state_dict() if self.critic else None,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore `state()`."""
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        if self.critic:
            self.critic.load_state_dict(state["critic"])

    def _parameters(self) -> list[torch.nn.Parameter]:
        return [parameter for group in self.optimiser.param_groups for parameter in group["params"]]

    def _rate(self, step: int) -> float:
        warm = min((step + 1) / (self._options.warmup_steps + 1), 1.0)
        if self._options.schedule == "constant":
            return warm
        return warm * max(1.0 - step / self._recipe.steps, 0.0)


def _pairs(rollouts: Sequence[Rollout]) -> list[tuple[Any, Any]]:
    return [(rollout.prompt_ids, rollout.completion_ids) for rollout in rollouts]
