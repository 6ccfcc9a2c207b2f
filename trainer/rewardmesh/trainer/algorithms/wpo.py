"""Online WPO: DPO with pairs weighted by the policy's own probability of writing them.

Zhou et al. 2024 (arXiv 2406.11827). Departures: those of `_preference` and of the loss. On fresh rollouts all weights are alike; it
matters with several epochs, replayed rollouts or rollouts of others.
"""

from pydantic import Field
from torch import Tensor

from rewardmesh.trainer.algorithms._preference import Pairs, PreferenceAlgorithm, PreferenceConfig
from rewardmesh.trainer.losses.wpo import policy_weighted_preference_loss


class WPOConfig(PreferenceConfig):
    """Options of WPO."""

    beta: float = Field(default=0.01, gt=0, description="strength of the KL anchor")


class WPO(PreferenceAlgorithm[WPOConfig]):
    """The logistic loss, weighted."""

    name = "wpo"

    def pair_loss(self, pairs: Pairs) -> Tensor:
        """Logistic, times the geometric mean probabilities of both sides."""
        first, second = pairs.sides(pairs.completions.mean_log_prob)
        return policy_weighted_preference_loss(pairs.margin(pairs.completions.log_ratio), first, second, pairs.p_first, self.config.beta)


Config = WPOConfig
create = WPO
