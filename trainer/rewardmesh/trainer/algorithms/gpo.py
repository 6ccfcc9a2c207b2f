"""Online GPO: preference optimisation with a loss function of choice.

Tang et al. 2024, "Generalized Preference Optimization" (arXiv 2402.05749). Departures: those of `_preference`.
"""

from pydantic import Field
from torch import Tensor

from rewardmesh.trainer.algorithms._preference import Pairs, PreferenceAlgorithm, PreferenceConfig
from rewardmesh.trainer.losses.gpo import PreferenceFunction, generalised_preference_loss


class GPOConfig(PreferenceConfig):
    """Options of GPO."""

    function: PreferenceFunction = Field(default="truncated_quadratic", description="f in p f(beta h) + (1 - p) f(-beta h)")


class GPO(PreferenceAlgorithm[GPOConfig]):
    """f of the difference of log-ratios."""

    name = "gpo"

    def pair_loss(self, pairs: Pairs) -> Tensor:
        """f both ways round."""
        return generalised_preference_loss(pairs.margin(pairs.completions.log_ratio), pairs.p_first, self.config.beta, self.config.function)


Config = GPOConfig
create = GPO
