"""ReMax: REINFORCE with the greedy completion's reward as the baseline.

Li et al. 2023 (arXiv 2310.10505). The baseline costs one more completion per prompt and neither a critic nor a group; it comes as a
rollout whose source is "greedy" and is not trained on. A group whose greedy rollout has no score has no baseline and is left out.
Departure: none of the loss; with more than one optimiser step per batch it would be off-policy without correction, so it refuses those.
"""

from typing import Self

from pydantic import model_validator
from torch import Tensor

from rewardmesh.trainer.algorithms._policy_gradient import BaselineOption, KLIn, PolicyGradient, PolicyGradientConfig, TokenReturns
from rewardmesh.trainer.algorithms._rewards import KLCoef
from rewardmesh.trainer.credit import TokenCredit
from rewardmesh.trainer.losses import reinforce_loss


class ReMaxConfig(PolicyGradientConfig):
    """Options of ReMax."""

    baseline: BaselineOption = "greedy"
    token_returns: TokenReturns = True
    kl_in: KLIn = "reward"
    kl_coef: KLCoef = 0.05

    @model_validator(mode="after")
    def _on_policy(self) -> Self:
        if self.epochs * self.minibatches > 1:
            raise ValueError("epochs and minibatches must be 1: the loss has no ratio that would correct a second step")
        return self


class ReMax(PolicyGradient):
    """Token returns less the greedy score, and no ratio."""

    name = "remax"

    def policy_losses(self, credit: TokenCredit, log_probs: Tensor, log_ratio: Tensor) -> Tensor:
        """-A log pi of each token, Tensor[N]."""
        return reinforce_loss(log_probs, credit.advantages.to(log_probs.device))


Config = ReMaxConfig
create = ReMax
