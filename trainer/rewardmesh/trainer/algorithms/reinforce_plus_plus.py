"""REINFORCE++: PPO without the critic; the batch itself is the baseline.

Hu et al. 2025 (arXiv 2501.03262). Each token's advantage is the KL-shaped reward still to come, whitened over all tokens of the batch;
PPO's clip, one completion per prompt is enough. Its neighbour with a group baseline is `reinforce_plus_plus_baseline`.
"""

from rewardmesh.trainer.algorithms._policy_gradient import (
    BaselineOption,
    KLIn,
    PolicyGradient,
    PolicyGradientConfig,
    TokenReturns,
    WhiteningOption,
)
from rewardmesh.trainer.algorithms._rewards import KLCoef, RewardClip


class ReinforcePlusPlusConfig(PolicyGradientConfig):
    """Options of REINFORCE++."""

    baseline: BaselineOption = "none"
    token_returns: TokenReturns = True
    whitening: WhiteningOption = "tokens"
    kl_in: KLIn = "reward"
    kl_coef: KLCoef = 0.01
    reward_clip: RewardClip = 10.0


class ReinforcePlusPlus(PolicyGradient):
    """Whitened token returns, one ratio per token."""

    name = "reinforce_plus_plus"


Config = ReinforcePlusPlusConfig
create = ReinforcePlusPlus
