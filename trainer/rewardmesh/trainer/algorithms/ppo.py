"""PPO from scored completions, with a critic and the KL penalty in the reward.

Schulman et al. 2017 (arXiv 1707.06347) as used for language models by Ziegler et al. 2019 (arXiv 1909.08593) and Ouyang et al. 2022
(arXiv 2203.02155). Departures: losses are means over all completion tokens of the optimiser step, not of each sequence; a rollout
without a score enters neither the loss, nor the whitening, nor the critic; a truncated completion is not an ended one and may be
penalised. k1 in the reward makes pi_ref exp(reward / kl_coef) / Z the optimum.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from rewardmesh.trainer.algorithms._base import AlgorithmConfig, LossOutput
from rewardmesh.trainer.credit import Credit, TokenCredit, minibatches, token_credit
from rewardmesh.trainer.losses import AdaptiveKL, clipped_policy_loss, clipped_value_loss
from rewardmesh.trainer.samples import Group


class PPOConfig(AlgorithmConfig):
    """Options of PPO."""

    epochs: int = Field(default=4, ge=1, description="passes over the batch")
    gamma: float = Field(default=1.0, ge=0, le=1)
    lam: float = Field(default=0.95, ge=0, le=1)
    kl_coef: float = Field(default=0.05, ge=0, description="per-token penalty on log pi_old - log pi_ref, in the reward")
    clip: float = Field(default=0.2, gt=0)
    dual_clip: float | None = Field(default=None, gt=1)
    value_clip: float | None = Field(default=0.2, gt=0)
    vf_coef: float = Field(default=0.1, ge=0)
    whiten_advantages: bool = True
    reward_clip: float | None = Field(default=None, gt=0, description="scores are clipped to +- this")
    missing_eos_penalty: float = Field(default=0.0, ge=0, description="subtracted from the score of a truncated completion")
    target_kl: float | None = Field(default=None, gt=0, description="nats per rollout; when given, kl_coef adapts to it")
    kl_horizon: float = Field(default=10_000, gt=0, description="rollouts over which kl_coef adapts")

    @model_validator(mode="after")
    def _adaptive_kl_starts_somewhere(self) -> Self:
        if self.target_kl is not None and self.kl_coef == 0:
            raise ValueError("target_kl needs kl_coef > 0: it is adapted by factors")
        return self


class PPO:
    """GAE credit, clipped policy loss and clipped value loss."""

    name = "ppo"
    needs_critic = True
    samples_per_prompt_min = 1

    def __init__(self, config: PPOConfig) -> None:
        self.config = config
        self.needs_reference = config.kl_coef > 0
        self.controller = None if config.target_kl is None else AdaptiveKL(config.kl_coef, config.target_kl, config.kl_horizon)

    @property
    def epochs(self) -> int:
        """Passes over the batch."""
        return self.config.epochs

    @property
    def kl_coef(self) -> float:
        """The coefficient in force."""
        return self.config.kl_coef if self.controller is None else self.controller.coefficient

    def credit(self, groups: Sequence[Group], rng: np.random.Generator, values: Tensor | None = None) -> TokenCredit:
        """Advantages and returns; `values` Tensor[N] of the critic over `all_rollouts(groups)`, before the update."""
        if values is None:
            raise ValueError("values must be given: PPO needs a critic")
        return token_credit(
            groups,
            values,
            kl_coef=self.kl_coef,
            gamma=self.config.gamma,
            lam=self.config.lam,
            whiten_advantages=self.config.whiten_advantages,
            reward_clip=self.config.reward_clip,
            missing_eos_penalty=self.config.missing_eos_penalty,
        )

    def minibatches(self, credit: Credit, rng: np.random.Generator) -> Iterator[Credit]:
        """Whole groups per minibatch where there are enough of them, else single rollouts."""
        return minibatches(credit, self.config.minibatches, rng)

    def loss(self, credit: Credit, log_probs: Tensor, values: Tensor | None = None) -> LossOutput:
        """Token mean of the policy loss plus vf_coef times that of the value loss.

        Metrics: `policy_loss`, `value_loss`, `clip_fraction` (tokens whose ratio is outside the clip), `policy_shift` (mean k2 of the
        new against the sampling policy).
        """
        if not isinstance(credit, TokenCredit):
            raise TypeError(f"PPO takes TokenCredit, got {type(credit).__name__}")
        if values is None or credit.returns is None or credit.old_values is None:
            raise ValueError("values, and credit with returns and old_values, must be given: PPO needs a critic")
        credit.layout.check(log_probs, "log_probs")
        credit.layout.check(values, "values")
        device = log_probs.device
        old_log_probs = credit.old_log_probs.to(device)
        share = credit.weight.to(device).double() / (credit.normaliser or 1.0)
        policy = clipped_policy_loss(log_probs, old_log_probs, credit.advantages.to(device), self.config.clip, self.config.dual_clip)
        value = clipped_value_loss(values, credit.old_values.to(device), credit.returns.to(device), self.config.value_clip)
        policy_loss, value_loss = (share * policy).sum(), (share * value).sum()
        loss = policy_loss + self.config.vf_coef * value_loss
        with torch.no_grad():
            shift = (log_probs - old_log_probs).double()
            metrics = {
                "loss": float(loss),
                "policy_loss": float(policy_loss),
                "value_loss": float(value_loss),
                "clip_fraction": float((share * ((shift.exp() - 1).abs() > self.config.clip)).sum()),
                "policy_shift": float((share * shift.square() / 2).sum()),
            }
        return LossOutput(loss.to(log_probs.dtype), metrics)

    def finish_step(self, credit: Credit) -> dict[str, float]:
        """Moves the KL coefficient, when it adapts."""
        if self.controller is not None and not credit.is_empty:
            self.controller.update(credit.metrics["kl"], credit.metrics["rollouts"])
        return {"kl_coef": self.kl_coef}

    def state(self) -> dict[str, float]:
        """The adaptive coefficient, when there is one."""
        return {} if self.controller is None else {"kl_coef": self.controller.coefficient}

    def load_state(self, state: Mapping[str, float]) -> None:
        """Restores `state()`."""
        if set(state) != set(self.state()):
            raise ValueError(f"state has {sorted(state)}, this configuration keeps {sorted(self.state())}")
        if self.controller is not None:
            self.controller.coefficient = state["kl_coef"]


Config = PPOConfig
create = PPO
