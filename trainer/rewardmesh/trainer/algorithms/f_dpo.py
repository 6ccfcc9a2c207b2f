"""Online f-DPO: DPO anchored by another divergence than the reverse KL.

Wang et al. 2023 (arXiv 2309.16240). Departures: those of `_preference`. With reward temperature 1 it converges to
f'(pi / pi_ref) = (reward - lambda) / beta, lambda making it a distribution.
"""

from pydantic import Field
from torch import Tensor

from rewardmesh.trainer.algorithms._completions import Completions
from rewardmesh.trainer.algorithms._preference import Pairs, PreferenceAlgorithm, PreferenceConfig
from rewardmesh.trainer.losses.f_dpo import Divergence, divergence_preference_loss, divergence_reward


class FDPOConfig(PreferenceConfig):
    """Options of f-DPO."""

    divergence: Divergence = Field(default="jensen_shannon", description="what keeps the policy near the reference; reverse_kl is DPO")
    alpha: float = Field(default=0.5, gt=0, lt=1, description="alpha divergence only: towards 0 the reverse KL, towards 1 the forward KL")


class FDPO(PreferenceAlgorithm[FDPOConfig]):
    """The logistic loss of the difference of f' of the probability ratios."""

    name = "f_dpo"

    def pair_loss(self, pairs: Pairs) -> Tensor:
        """Logistic."""
        first, second = pairs.sides(pairs.completions.log_ratio)
        return divergence_preference_loss(first, second, pairs.p_first, self.config.beta, self.config.divergence, self.config.alpha)

    def implicit_reward(self, completions: Completions) -> Tensor:
        """beta f' of the probability ratio."""
        return self.config.beta * divergence_reward(completions.log_ratio, self.config.divergence, self.config.alpha)


Config = FDPOConfig
create = FDPO
