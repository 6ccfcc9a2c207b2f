"""Online SLiC: the hinge loss on rollouts of the current policy.

Zhao et al. 2023 (arXiv 2305.10425), on log-ratios to the reference as in Liu et al. 2023 (arXiv 2309.06657). Departures: those of
`_preference`. A soft label other than 0, .5 and 1 gives the hinge no inner optimum: it goes to one kink or the other.
"""

from torch import Tensor

from rewardmesh.trainer.algorithms._preference import Pairs, PreferenceAlgorithm, PreferenceConfig
from rewardmesh.trainer.losses import hinge_preference_loss


class SLiCConfig(PreferenceConfig):
    """Options of SLiC."""


class SLiC(PreferenceAlgorithm[SLiCConfig]):
    """The hinge loss: pairs told apart by 1 / beta teach nothing more."""

    name = "slic"

    def pair_loss(self, pairs: Pairs) -> Tensor:
        """Hinge."""
        return hinge_preference_loss(pairs.margin(pairs.completions.log_ratio), pairs.p_first, self.config.beta)


Config = SLiCConfig
create = SLiC
