"""Online SimPO: preference optimisation without a reference.

Meng et al. 2024 (arXiv 2405.14734). Departures: those of `_preference` but for the labels, which are hard unless told otherwise, and a
symmetric target margin (see the loss).
"""

from pydantic import Field
from torch import Tensor

from rewardmesh.trainer.algorithms._completions import Completions
from rewardmesh.trainer.algorithms._preference import Pairs, PreferenceAlgorithm, ReferenceFreeConfig
from rewardmesh.trainer.losses.simpo import simple_preference_loss


class SimPOConfig(ReferenceFreeConfig):
    """Options of SimPO."""

    beta: float = Field(default=2.5, gt=0, description="scale of the mean log-probability as a reward")
    gamma: float = Field(default=1.375, ge=0, description="margin by which the better reward must lead")


class SimPO(PreferenceAlgorithm[SimPOConfig]):
    """The logistic loss of the difference of mean log-probabilities, less a margin."""

    name = "simpo"
    needs_reference = False

    def pair_loss(self, pairs: Pairs) -> Tensor:
        """Logistic, beyond the margin."""
        margin = pairs.margin(pairs.completions.mean_log_prob)
        return simple_preference_loss(margin, pairs.p_first, self.config.beta, self.config.gamma)

    def implicit_reward(self, completions: Completions) -> Tensor:
        """beta times the mean log-probability."""
        return self.config.beta * completions.mean_log_prob


Config = SimPOConfig
create = SimPO
