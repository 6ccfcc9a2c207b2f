"""XPO: online DPO between the policy and the reference, with optimism.

Xie et al. 2024 (arXiv 2405.21046). It pairs a rollout of the policy with one of source "reference", which a sampler must supply; a group
without any makes no pair, and its rollouts are counted as left out. Departures: those of `_preference`; alpha is constant.
"""

import torch
from pydantic import Field
from torch import Tensor

from rewardmesh.trainer.algorithms._preference import Pairs, PreferenceAlgorithm, PreferenceConfig
from rewardmesh.trainer.losses.xpo import exploratory_preference_loss
from rewardmesh.trainer.samples import Source


class XPOConfig(PreferenceConfig):
    """Options of XPO."""

    alpha: float = Field(default=1e-5, ge=0, description="optimism: weight of the log-probability of the reference's sample")


class XPO(PreferenceAlgorithm[XPOConfig]):
    """The logistic loss, and the likelihood of the reference's sample pushed down."""

    name = "xpo"
    across: Source | None = "reference"
    needs_sampler = "opponent"

    def pair_loss(self, pairs: Pairs) -> Tensor:
        """Logistic, and optimism."""
        first, second = pairs.sides(pairs.completions.log_prob)
        of_reference = torch.where(pairs.across[pairs.first], first, second)
        return exploratory_preference_loss(
            pairs.margin(pairs.completions.log_ratio), of_reference, pairs.p_first, self.config.beta, self.config.alpha
        )


Config = XPOConfig
create = XPO
