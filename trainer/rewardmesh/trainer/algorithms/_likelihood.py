"""What the algorithms share that fine-tune a policy on its own rollouts, weighted by how good they are.

loss = mean over the batch of -w log pi(y | x), plus kl_coef KL(reference || policy) where asked for. That divergence is estimated by k3
on every rollout that has a score, chosen or not: k3's expected gradient on samples of the policy is that of KL(reference || policy),
which a mean over the chosen ones alone would not have. A subclass says only what the weights are.
"""

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from rewardmesh.trainer.algorithms._base import Algorithm, AlgorithmConfig, LossOutput
from rewardmesh.trainer.credit import Credit
from rewardmesh.trainer.credit.admission import LeftOut
from rewardmesh.trainer.credit.weighted import Candidates, WeightedCredit, candidates, weighted_credit
from rewardmesh.trainer.losses import k1, k3, weighted_likelihood_loss
from rewardmesh.trainer.samples import Group

DoubleArray = npt.NDArray[np.float64]


class LikelihoodConfig(AlgorithmConfig):
    """Options of every weighted likelihood algorithm."""

    kl_coef: float = Field(default=0.0, ge=0, description="weight of KL(reference || policy) in the loss")
    length_normalised: bool = Field(default=False, description="log-likelihoods are means over a completion's tokens instead of sums")


class WeightedLikelihood(Algorithm):
    """Weights from rewards, and weighted maximum likelihood."""

    name: str
    weighs_every_rollout = False
    """Whether rollouts of weight 0 count in the mean too; else the loss is the mean by weight."""

    config: LikelihoodConfig

    def __init__(self, config: LikelihoodConfig) -> None:
        self.config = config
        self.needs_reference = config.kl_coef > 0

    @abstractmethod
    def weigh(self, found: Sequence[Candidates]) -> list[DoubleArray]:
        """Weights float64[k], at least 0 unless `weighs_every_rollout`, of each group's candidates."""

    def candidates(self, groups: Sequence[Group], left_out: LeftOut) -> list[Candidates]:
        """The rollouts that may be weighed, with the rewards to weigh them by."""
        return candidates(groups, left_out, needs_reference=self.needs_reference, at_least=self.samples_per_prompt_min)

    def credit(self, groups: Sequence[Group], rng: np.random.Generator, values: Tensor | None = None) -> WeightedCredit:
        """Weights within each group or over the batch; `values` and `rng` are not used."""
        left_out = LeftOut()
        found = self.candidates(groups, left_out)
        weights = self.weigh(found)
        anchored = self.config.kl_coef > 0
        if anchored and not self.weighs_every_rollout:
            # Every rollout is in the mean for the anchor's sake: weights of mean 1 keep the likelihood a weighted mean.
            total = sum(float(given.sum()) for given in weights)
            count = sum(len(given) for given in weights)
            weights = [given * (count / total) if total > 0 else given for given in weights]
        return weighted_credit(
            found, weights, left_out, keep_all=anchored or self.weighs_every_rollout, with_reference=self.needs_reference
        )

    def loss(self, credit: Credit, log_probs: Tensor, values: Tensor | None = None) -> LossOutput:
        """Weighted likelihood loss, and the anchor.

        Metrics: `likelihood_loss`; `kl` (mean k1 of the policy to the reference per rollout) and `anchor_loss` when anchored.
        """
        if not isinstance(credit, WeightedCredit):
            raise TypeError(f"{self.name} takes WeightedCredit, got {type(credit).__name__}")
        credit.layout.check(log_probs, "log_probs")
        device, normaliser = log_probs.device, credit.normaliser or 1.0
        likelihood = credit.layout.mean(log_probs) if self.config.length_normalised else credit.layout.sum(log_probs)
        loss = (weighted_likelihood_loss(likelihood, credit.weight.to(device).double()) / normaliser).sum()
        metrics = {"likelihood_loss": float(loss.detach())}
        if self.config.kl_coef > 0:
            if credit.reference_log_probs is None:
                raise ValueError("reference_log_probs must be given: the loss is anchored to the reference")
            reference = credit.reference_log_probs.to(device)
            share = credit.mass.to(device).double() / normaliser
            anchor = (share * credit.layout.sum(k3(log_probs, reference))).sum()
            loss = loss + self.config.kl_coef * anchor
            with torch.no_grad():
                metrics["kl"] = float((share * credit.layout.sum(k1(log_probs, reference))).sum())
                metrics["anchor_loss"] = float(anchor.detach())
        return LossOutput(loss.to(log_probs.dtype), {"loss": float(loss.detach()), **metrics})
