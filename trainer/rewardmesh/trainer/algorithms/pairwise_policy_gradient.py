"""Policy gradient on win probabilities: the judge's pairwise matrix is the reward.

Xu et al. 2025, "A Unified Pairwise Framework for RLHF" (arXiv 2504.04950) feed a pairwise judge's win probability to PPO; here it is
over the group itself: the advantage of a completion is its mean probability of beating the others, less one half. On samples of the
policy that estimates P(y beats pi) - 1/2, so that with the KL in the reward the regularised Nash policy
pi ~ pi_ref exp(P(. beats pi) / kl_coef) is the fixed point, also for preferences that no scalar reward explains.
Departures: no anchor answers and no critic; pairs that nobody judged count for neither side, a completion without any is left out.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from rewardmesh.trainer.algorithms._policy_gradient import KLIn, PolicyGradient, PolicyGradientConfig
from rewardmesh.trainer.algorithms._rewards import KLCoef
from rewardmesh.trainer.credit.preferences import LabelSource, win_probabilities
from rewardmesh.trainer.samples import Group

Wins = Annotated[Literal["win_probability"], Field(description="the mean win probability is compared with one half")]
Source = Annotated[LabelSource, Field(description="who says which is better: the judge, the reward, or the reward where no judge does")]
RewardTemperature = Annotated[float, Field(gt=0, description="tau in sigmoid((r_i - r_j) / tau), where the reward says it")]


class PairwisePolicyGradientConfig(PolicyGradientConfig):
    """Options of the pairwise policy gradient."""

    baseline: Wins = "win_probability"
    kl_in: KLIn = "reward"
    kl_coef: KLCoef = 0.05
    label_source: Source = "preferences"
    reward_temperature: RewardTemperature = 1.0


class PairwisePolicyGradient(PolicyGradient):
    """Win probabilities over the group, one ratio per token."""

    name = "pairwise_policy_gradient"

    def __init__(self, config: PairwisePolicyGradientConfig) -> None:
        super().__init__(config)
        self.label_source: LabelSource = config.label_source
        self.reward_temperature = config.reward_temperature

    def credit_options(self) -> dict[str, Any]:
        """With the win probabilities."""
        return {**super().credit_options(), "win_matrix": self.win_matrix}

    def win_matrix(self, group: Group, kept: Sequence[int]) -> npt.NDArray[np.float64]:
        """float64[k, k] of the rollouts at `kept`: probability that the row's is better, NaN where nobody said."""
        return win_probabilities(group, kept, self.label_source, self.reward_temperature)


Config = PairwisePolicyGradientConfig
create = PairwisePolicyGradient
