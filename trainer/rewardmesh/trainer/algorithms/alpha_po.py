"""Online AlphaPO: SimPO with a shaped reward.

Gupta et al. 2025 (arXiv 2501.03884). Departures: those of SimPO here.
"""

from pydantic import Field
from torch import Tensor

from rewardmesh.trainer.algorithms._completions import Completions
from rewardmesh.trainer.algorithms._preference import Pairs, PreferenceAlgorithm, ReferenceFreeConfig
from rewardmesh.trainer.losses.alpha_po import alpha_preference_loss, alpha_reward


class AlphaPOConfig(ReferenceFreeConfig):
    """Options of AlphaPO."""

    beta: float = Field(default=2.5, gt=0, description="scale of the shaped reward")
    gamma: float = Field(default=0.25, ge=0, description="margin by which the better reward must lead")
    alpha: float = Field(default=0.25, description="shape (1 - q^-alpha) / alpha of the reward; 0 is SimPO's log q")


class AlphaPO(PreferenceAlgorithm[AlphaPOConfig]):
    """The logistic loss of the difference of shaped rewards, less a margin."""

    name = "alpha_po"
    needs_reference = False

    def pair_loss(self, pairs: Pairs) -> Tensor:
        """Logistic, beyond the margin."""
        first, second = pairs.sides(pairs.completions.mean_log_prob)
        return alpha_preference_loss(first, second, pairs.p_first, self.config.beta, self.config.gamma, self.config.alpha)

    def implicit_reward(self, completions: Completions) -> Tensor:
        """beta times the shaped mean log-probability."""
        return self.config.beta * alpha_reward(completions.mean_log_prob, self.config.alpha)


Config = AlphaPOConfig
create = AlphaPO
