"""REINFORCE++ with a group baseline: the prompt's mean is taken off before the batch is whitened.

Hu et al. 2025 (arXiv 2501.03262), the variant for several completions per prompt. Unlike GRPO it divides by the batch's standard
deviation instead of each group's, so that easy and hard prompts keep their proportion; the KL is k2 in the loss.
"""

from rewardmesh.trainer.algorithms._policy_gradient import (
    BaselineOption,
    KLEstimatorOption,
    KLIn,
    PolicyGradient,
    PolicyGradientConfig,
    WhiteningOption,
)
from rewardmesh.trainer.algorithms._rewards import KLCoef, RewardClip


class ReinforcePlusPlusBaselineConfig(PolicyGradientConfig):
    """Options of REINFORCE++ with a group baseline."""

    baseline: BaselineOption = "group_mean"
    whitening: WhiteningOption = "tokens"
    kl_in: KLIn = "loss"
    kl_estimator: KLEstimatorOption = "k2"
    kl_coef: KLCoef = 0.01
    reward_clip: RewardClip = 10.0


class ReinforcePlusPlusBaseline(PolicyGradient):
    """Centred and whitened returns, one ratio per token."""

    name = "reinforce_plus_plus_baseline"


Config = ReinforcePlusPlusBaselineConfig
create = ReinforcePlusPlusBaseline
