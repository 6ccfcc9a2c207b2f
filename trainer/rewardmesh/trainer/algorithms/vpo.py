"""Online VPO: DPO with optimism (or pessimism) about the value of its implicit reward.

Cen et al. 2024 (arXiv 2405.19320). Departures: those of `_preference`; the calibration sample is the pair's own worse or better completion,
by its soft label. Calibrating on both would regularise nothing on-policy: the expected gradient of log pi on samples of pi is 0.
"""

from typing import Literal

from pydantic import Field
from torch import Tensor

from rewardmesh.trainer.algorithms._preference import Pairs, PreferenceAlgorithm, PreferenceConfig
from rewardmesh.trainer.losses.vpo import value_incentivised_preference_loss


class VPOConfig(PreferenceConfig):
    """Options of VPO."""

    alpha: float = Field(default=0.01, ge=0, description="weight of the value of the implicit reward")
    optimistic: bool = Field(default=True, description="seek a high value (online); else a low one (offline)")
    calibration: Literal["better", "worse"] = Field(default="worse", description="side of the pair over which rewards have mean 0")


class VPO(PreferenceAlgorithm[VPOConfig]):
    """The logistic loss, and the incentive."""

    name = "vpo"

    def pair_loss(self, pairs: Pairs) -> Tensor:
        """Logistic, and value."""
        rho = pairs.completions.log_ratio
        first, second = pairs.sides(rho)
        of_first = pairs.p_first if self.config.calibration == "better" else 1 - pairs.p_first
        return value_incentivised_preference_loss(
            pairs.margin(rho),
            of_first * first + (1 - of_first) * second,
            pairs.p_first,
            self.config.beta,
            self.config.alpha,
            optimistic=self.config.optimistic,
        )


Config = VPOConfig
create = VPO
