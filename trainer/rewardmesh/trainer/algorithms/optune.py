"""OPTune's weighted DPO: pairs of large reward gap count more.

Chen et al. 2024 (arXiv 2406.07657). Departures: those of `_preference` and of the loss; the choice of prompts to regenerate is a sampler.
"""

from pydantic import Field
from torch import Tensor

from rewardmesh.trainer.algorithms._preference import Pairs, PreferenceAlgorithm, PreferenceConfig
from rewardmesh.trainer.losses.optune import gap_weighted_preference_loss


class OPTuneConfig(PreferenceConfig):
    """Options of OPTune's loss."""

    gap_scale: float = Field(default=1.0, gt=0, description="beta_2 in the weight sigmoid(beta_2 (r_w - r_l))")


class OPTune(PreferenceAlgorithm[OPTuneConfig]):
    """The logistic loss, weighted by the reward gap."""

    name = "optune"

    def pair_loss(self, pairs: Pairs) -> Tensor:
        """Logistic, times the weight of the gap."""
        margin, gap = pairs.margin(pairs.completions.log_ratio), pairs.margin(pairs.rewards)
        return gap_weighted_preference_loss(margin, gap, pairs.p_first, self.config.beta, self.config.gap_scale)


Config = OPTuneConfig
create = OPTune
