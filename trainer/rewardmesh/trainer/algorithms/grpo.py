"""GRPO: PPO's clip with the group's standardised reward as every token's advantage, no critic.

Shao et al. 2024, "DeepSeekMath" (arXiv 2402.03300), equations 3 and 4: k3 in the loss, mean over sequences of token means.
What that changes: dividing by the group's standard deviation makes every prompt weigh alike, and neither pi_ref exp(reward / kl_coef) / Z
nor any optimum of the expected reward is its fixed point. Departure: 1e-4 is added to the standard deviation.
"""

from rewardmesh.trainer.algorithms._policy_gradient import (
    AggregationOption,
    BaselineOption,
    KLEstimatorOption,
    KLIn,
    PolicyGradient,
    PolicyGradientConfig,
)
from rewardmesh.trainer.algorithms._rewards import KLCoef


class GRPOConfig(PolicyGradientConfig):
    """Options of GRPO."""

    baseline: BaselineOption = "group_standard"
    kl_in: KLIn = "loss"
    kl_estimator: KLEstimatorOption = "k3"
    kl_coef: KLCoef = 0.04
    aggregation: AggregationOption = "sequence"


class GRPO(PolicyGradient):
    """Standardised group advantages, one ratio per token."""

    name = "grpo"


Config = GRPOConfig
create = GRPO
