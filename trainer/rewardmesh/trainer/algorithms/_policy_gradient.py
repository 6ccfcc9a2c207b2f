"""What the critic-free policy-gradient algorithms share: one of them is its defaults and, where it has its own, its loss.

loss = sum over tokens of weight * (importance * policy loss + kl_coef * KL estimate) / sum of mass, the KL only where it is in the
loss. Baseline, KL placement and estimator, aggregation, clips, penalties and importance correction are options of all of them; the
defaults of a subclass are its paper's. Where the KL is decides what is learned: k1 in the reward and k2 in the loss make
pi_ref exp(reward / kl_coef) / Z the optimum of a policy gradient without standardisation, k3 in the loss kl_coef pi_ref / (lambda - r),
and k1 in the loss regularises nothing.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from rewardmesh.trainer.algorithms._base import LossOutput
from rewardmesh.trainer.algorithms._rewards import Clip, ClipHigh, DualClip, RewardAlgorithm, RewardConfig
from rewardmesh.trainer.credit import Aggregation, Baseline, Credit, TokenCredit, Whitening, return_credit
from rewardmesh.trainer.losses import KL_ESTIMATORS, KLEstimator, clipped_policy_loss, clipped_sequence_loss
from rewardmesh.trainer.samples import Group

BaselineOption = Annotated[Baseline, Field(description="what a completion's return is compared with")]
TokenReturns = Annotated[bool, Field(description="one advantage per token, of the reward still to come; else one per completion")]
WholeCompletions = Annotated[Literal[False], Field(description="whole completions are the actions: one advantage each")]
Gamma = Annotated[float, Field(ge=0, le=1, description="discount per token, with token_returns")]
WhiteningOption = Annotated[Whitening, Field(description="advantages of the batch brought to mean 0 and variance 1 over these")]
KLIn = Annotated[Literal["none", "reward", "loss"], Field(description="where the KL to the reference is")]
KLEstimatorOption = Annotated[KLEstimator, Field(description="estimator of the KL")]
KLLevel = Annotated[Literal["token", "sequence"], Field(description="in the loss: per token, or of whole completions, once each")]
AggregationOption = Annotated[Aggregation, Field(description="how token losses become the batch's")]
ConstantLength = Annotated[int, Field(ge=1, description="tokens that aggregation constant divides by; sampling.max_tokens in its paper")]
DropZeroVariance = Annotated[bool, Field(description="leave groups out whose scores are all equal")]
MaskTruncated = Annotated[bool, Field(description="keep truncated completions out of the loss; their scores stay in the baseline")]


class PolicyGradientConfig(RewardConfig):
    """Options of every critic-free policy-gradient algorithm."""

    baseline: BaselineOption = "leave_one_out"
    token_returns: TokenReturns = False
    gamma: Gamma = 1.0
    whitening: WhiteningOption = "none"
    kl_in: KLIn = "none"
    kl_estimator: KLEstimatorOption = "k1"
    kl_level: KLLevel = "token"
    aggregation: AggregationOption = "token"
    constant_length: ConstantLength = 256
    clip: Clip = 0.2
    clip_high: ClipHigh = None
    dual_clip: DualClip = None
    drop_zero_variance: DropZeroVariance = False
    mask_truncated: MaskTruncated = False

    @model_validator(mode="after")
    def _credit_fits(self) -> Self:
        if self.kl_in == "none" and self.kl_coef > 0:
            raise ValueError("kl_coef needs kl_in: reward or loss")
        if self.whitening == "sequences" and self.token_returns:
            raise ValueError("whitening: sequences needs token_returns: false")
        if self.kl_level == "sequence" and self.kl_in != "loss":
            raise ValueError("kl_level: sequence is for kl_in: loss; in the reward the KL is that of the completion")
        return self


class PolicyGradient(RewardAlgorithm):
    """Group baselines and the clipped policy loss with one ratio per token."""

    name: str
    whole_groups = False

    config: PolicyGradientConfig

    def __init__(self, config: PolicyGradientConfig) -> None:
        super().__init__(config)
        self.samples_per_prompt_min = 1 if config.baseline in ("none", "greedy") else 2
        self.needs_sampler = "greedy" if config.baseline == "greedy" else ""

    def credit(self, groups: Sequence[Group], rng: np.random.Generator, values: Tensor | None = None) -> TokenCredit:
        """Advantages against the baseline; `rng` and `values` are not used."""
        return return_credit(groups, **self.credit_options())

    def credit_options(self) -> dict[str, Any]:
        """Arguments of `return_credit`."""
        config = self.config
        return {
            "baseline": config.baseline,
            "kl_coef": self.kl_coef if config.kl_in == "reward" else 0.0,
            "kl_estimator": config.kl_estimator,
            "needs_reference": self.needs_reference,
            "token_returns": config.token_returns,
            "gamma": config.gamma,
            "whitening": config.whitening,
            "aggregation": config.aggregation,
            "constant_length": config.constant_length,
            "rule": self.rewards.rule,
            "drop_zero_variance": config.drop_zero_variance,
            "mask_truncated": config.mask_truncated,
            "correction": config.correction(),
            "whole_groups": self.whole_groups,
        }

    def policy_losses(self, credit: TokenCredit, log_probs: Tensor, log_ratio: Tensor) -> Tensor:
        """Policy loss of each token, Tensor[N]; `log_ratio` is what `log_ratio` gives."""
        zeros, advantages = torch.zeros_like(log_ratio), credit.advantages.to(log_ratio.device)
        return clipped_policy_loss(log_ratio, zeros, advantages, self.config.clip, self.config.dual_clip, clip_high=self.config.clip_high)

    def log_ratio(self, credit: TokenCredit, log_probs: Tensor) -> Tensor:
        """log pi - log pi_old in nats that the clip bounds, at each token, Tensor[N]."""
        return log_probs - credit.old_log_probs.to(log_probs.device)

    def loss(self, credit: Credit, log_probs: Tensor, values: Tensor | None = None) -> LossOutput:
        """Aggregated policy loss, plus kl_coef times the KL where it is in the loss.

        Metrics: `policy_loss`, `kl_loss`, `clip_fraction` (share of the tokens whose ratio is outside the clip), `policy_shift` (mean k2 of
        the new against the old policy, per token).
        """
        tokens = token_credit_of(credit, self.name)
        tokens.layout.check(log_probs, "log_probs")
        device = log_probs.device
        share = tokens.weight.to(device).double() / (tokens.normaliser or 1.0)
        policy_share = share if tokens.importance is None else share * tokens.importance.to(device)
        log_ratio = self.log_ratio(tokens, log_probs)
        policy_loss = (policy_share * self.policy_losses(tokens, log_probs, log_ratio)).sum()
        metrics = {"policy_loss": float(policy_loss.detach())}
        loss = policy_loss
        if self.config.kl_in == "loss" and self.config.kl_coef > 0:
            kl_loss = (share * self._kl(tokens, log_probs)).sum()
            metrics["kl_loss"] = float(kl_loss.detach())
            loss = loss + self.kl_coef * kl_loss
        metrics.update(shift_metrics(tokens, log_probs, log_ratio, self.config.clip, self.config.clip_high), loss=float(loss.detach()))
        return LossOutput(loss.to(log_probs.dtype), metrics)

    def _kl(self, credit: TokenCredit, log_probs: Tensor) -> Tensor:
        """The estimate at each token, Tensor[N]."""
        if credit.reference_log_probs is None:
            raise ValueError("reference_log_probs must be given: the KL is in the loss")
        reference, layout = credit.reference_log_probs.to(log_probs.device), credit.layout
        estimate = KL_ESTIMATORS[self.config.kl_estimator]
        if self.config.kl_level == "token":
            return estimate(log_probs, reference)
        return self.at_tokens(credit, estimate(layout.sum(log_probs), layout.sum(reference)))

    def at_tokens(self, credit: TokenCredit, of_completions: Tensor) -> Tensor:
        """Tensor[S] -> Tensor[N]: shared out among a completion's tokens, so that beside token losses it counts once."""
        lengths = torch.tensor(credit.layout.lengths, device=of_completions.device)
        return (of_completions / lengths)[credit.layout.sequence_index.to(of_completions.device)]


class SequenceRatio(PolicyGradient):
    """One ratio per completion: of the sum over its tokens, or of their mean."""

    ratio: Literal["sum", "mean"]

    def log_ratio(self, credit: TokenCredit, log_probs: Tensor) -> Tensor:
        """That of the completion, at each of its tokens, float64 Tensor[N]."""
        of_token = super().log_ratio(credit, log_probs)
        return self.at_tokens(credit, credit.layout.sum(of_token) if self.ratio == "sum" else credit.layout.mean(of_token))

    def at_tokens(self, credit: TokenCredit, of_completions: Tensor) -> Tensor:
        """Whole at each token, as the completion's policy loss is."""
        return of_completions[credit.layout.sequence_index.to(of_completions.device)]

    def policy_losses(self, credit: TokenCredit, log_probs: Tensor, log_ratio: Tensor) -> Tensor:
        """The completion's loss at each of its tokens."""
        first = credit.layout.offsets[:-1].to(log_ratio.device)
        advantages = credit.advantages.to(log_ratio.device)[first]
        config = self.config
        losses = clipped_sequence_loss(log_ratio[first], advantages, config.clip, config.dual_clip, clip_high=config.clip_high)
        return self.at_tokens(credit, losses)


def token_credit_of(credit: Credit, name: str) -> TokenCredit:
    """`credit`, when the loss of the algorithm `name` may take it; else a TypeError, or a ValueError while old log-probs are missing."""
    if not isinstance(credit, TokenCredit):
        raise TypeError(f"{name} takes TokenCredit, got {type(credit).__name__}")
    if credit.needs_old_log_probs:
        raise ValueError("with_old_log_probs must be called first: importance correction compares the trainer's with the sampler's")
    return credit


@torch.no_grad()
def shift_metrics(credit: TokenCredit, log_probs: Tensor, log_ratio: Tensor, clip: float, clip_high: float | None) -> dict[str, float]:
    """Shares of `clip_fraction` (by `log_ratio`, what is clipped) and `policy_shift` (mean k2 per token of new against old)."""
    mass = (credit.weight if credit.mass is None else credit.mass).to(log_probs.device).double() / (credit.normaliser or 1.0)
    ratio = log_ratio.double().exp()
    outside = (ratio < 1 - clip) | (ratio > 1 + (clip if clip_high is None else clip_high))
    shift = (log_probs - credit.old_log_probs.to(log_probs.device)).double()
    return {"clip_fraction": float((mass * outside).sum()), "policy_shift": float((mass * shift.square() / 2).sum())}
