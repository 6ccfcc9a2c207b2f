"""PPO from scored completions, with a critic and the KL penalty in the reward.

Schulman et al. 2017 (arXiv 1707.06347) as used for language models by Ziegler et al. 2019 (arXiv 1909.08593) and Ouyang et al. 2022
(arXiv 2203.02155). Departures: losses are means over all completion tokens of the optimiser step, not of each sequence; a rollout
without a score enters neither the loss, nor the whitening, nor the critic; a truncated completion is not an ended one and may be
penalised. k1 in the reward makes pi_ref exp(reward / kl_coef) / Z the optimum.
"""

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import Field
from torch import Tensor

from rewardmesh.trainer.algorithms._base import LossOutput
from rewardmesh.trainer.algorithms._policy_gradient import shift_metrics, token_credit_of
from rewardmesh.trainer.algorithms._rewards import Clip, ClipHigh, DualClip, KLCoef, RewardAlgorithm, RewardConfig
from rewardmesh.trainer.credit import Credit, TokenCredit, token_credit
from rewardmesh.trainer.losses import KLEstimator, clipped_policy_loss, clipped_value_loss
from rewardmesh.trainer.samples import Group

Epochs = Annotated[int, Field(ge=1, description="passes over the batch")]
Gamma = Annotated[float, Field(ge=0, le=1, description="discount per action")]
Lam = Annotated[float, Field(ge=0, le=1, description="lambda of generalised advantage estimation")]
KLEstimatorOption = Annotated[KLEstimator, Field(description="estimator of the per-token KL in the reward")]
ValueClip = Annotated[float | None, Field(gt=0, description="a value may move by this from its old one; unset for no bound")]
ValueCoef = Annotated[float, Field(ge=0, description="weight of the critic's loss")]
WhitenAdvantages = Annotated[bool, Field(description="advantages brought to mean 0 and variance 1 over the actions of the batch")]


class PPOConfig(RewardConfig):
    """Options of PPO."""

    epochs: Epochs = 4
    gamma: Gamma = 1.0
    lam: Lam = 0.95
    kl_coef: KLCoef = 0.05
    kl_estimator: KLEstimatorOption = "k1"
    clip: Clip = 0.2
    clip_high: ClipHigh = None
    dual_clip: DualClip = None
    value_clip: ValueClip = 0.2
    vf_coef: ValueCoef = 0.1
    whiten_advantages: WhitenAdvantages = True


class PPO(RewardAlgorithm):
    """GAE credit, clipped policy loss and clipped value loss."""

    name = "ppo"
    needs_critic = True

    config: PPOConfig

    def __init__(self, config: PPOConfig) -> None:
        super().__init__(config)

    def credit(self, groups: Sequence[Group], rng: np.random.Generator, values: Tensor | None = None) -> TokenCredit:
        """Advantages and returns; `values` Tensor[N] of the critic over `all_rollouts(groups)`, before the update."""
        if values is None:
            raise ValueError(f"values must be given: {self.name} needs a critic")
        return token_credit(groups, values, **self.credit_options(groups))

    def credit_options(self, groups: Sequence[Group]) -> dict[str, Any]:
        """Arguments of `token_credit`, of which some subclasses change or add to."""
        config = self.config
        return {
            "kl_coef": self.kl_coef,
            "kl_estimator": config.kl_estimator,
            "needs_reference": self.needs_reference,
            "gamma": config.gamma,
            "lam": config.lam,
            "whiten_advantages": config.whiten_advantages,
            "rule": self.rewards.rule,
            "correction": config.correction(),
        }

    def policy_losses(self, credit: TokenCredit, log_probs: Tensor) -> Tensor:
        """Policy loss of each token, Tensor[N]."""
        device, config = log_probs.device, self.config
        old, advantages = credit.old_log_probs.to(device), credit.advantages.to(device)
        return clipped_policy_loss(log_probs, old, advantages, config.clip, config.dual_clip, clip_high=config.clip_high)

    def log_ratio(self, credit: TokenCredit, log_probs: Tensor) -> Tensor:
        """log pi - log pi_old in nats of the action each token belongs to, Tensor[N]."""
        return log_probs - credit.old_log_probs.to(log_probs.device)

    @property
    def policy_coef(self) -> float:
        """Weight of the policy loss."""
        return 1.0

    def loss(self, credit: Credit, log_probs: Tensor, values: Tensor | None = None) -> LossOutput:
        """Mean over actions of the policy loss plus vf_coef times that of the value loss.

        Metrics: `policy_loss`, `value_loss`, `clip_fraction` (actions whose ratio is outside the clip), `policy_shift` (mean k2 of the
        new against the old policy).
        """
        tokens = token_credit_of(credit, self.name)
        if values is None or tokens.returns is None or tokens.old_values is None:
            raise ValueError(f"values, and credit with returns and old_values, must be given: {self.name} needs a critic")
        tokens.layout.check(log_probs, "log_probs")
        tokens.layout.check(values, "values")
        device = log_probs.device
        share = tokens.weight.to(device).double() / (tokens.normaliser or 1.0)
        policy_share = share if tokens.importance is None else share * tokens.importance.to(device)
        value = clipped_value_loss(values, tokens.old_values.to(device), tokens.returns.to(device), self.config.value_clip)
        policy_loss, value_loss = (policy_share * self.policy_losses(tokens, log_probs)).sum(), (share * value).sum()
        loss = self.policy_coef * policy_loss + self.config.vf_coef * value_loss
        metrics = {
            "loss": float(loss.detach()),
            "policy_loss": float(policy_loss.detach()),
            "value_loss": float(value_loss.detach()),
            **shift_metrics(tokens, log_probs, self.log_ratio(tokens, log_probs), self.config.clip, self.config.clip_high),
        }
        return LossOutput(loss.to(log_probs.dtype), metrics)


Config = PPOConfig
create = PPO
