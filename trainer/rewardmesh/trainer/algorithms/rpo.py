"""Online RPO: DPO and the likelihood of the better completion.

Pang et al. 2024, "Iterative Reasoning Preference Optimization" (arXiv 2404.19733). Departures: those of `_preference` and of the loss; the
reference stays the initial one instead of moving to the previous iterate.
"""

from pydantic import Field
from torch import Tensor

from rewardmesh.trainer.algorithms._preference import Pairs, PreferenceAlgorithm, PreferenceConfig
from rewardmesh.trainer.losses.rpo import likelihood_preference_loss


class RPOConfig(PreferenceConfig):
    """Options of RPO."""

    alpha: float = Field(default=1.0, ge=0, description="weight of the better completion's negative log-likelihood")
    length_normalised: bool = Field(default=True, description="the likelihood is per token instead of per completion")


class RPO(PreferenceAlgorithm[RPOConfig]):
    """The logistic loss and the likelihood of the better side."""

    name = "rpo"

    def pair_loss(self, pairs: Pairs) -> Tensor:
        """Logistic, and likelihood."""
        completions = pairs.completions
        first, second = pairs.sides(-completions.mean_log_prob if self.config.length_normalised else -completions.log_prob)
        return likelihood_preference_loss(
            pairs.margin(completions.log_ratio), first, second, pairs.p_first, self.config.beta, self.config.alpha
        )


Config = RPOConfig
create = RPO
