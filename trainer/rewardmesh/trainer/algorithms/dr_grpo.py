"""Dr. GRPO: GRPO without its two biases.

Liu et al. 2025, "Understanding R1-Zero-Like Training" (arXiv 2503.20783): no division by the group's standard deviation (which favours
too easy and too hard prompts) and none by the completion's length (which favours long wrong completions); no KL.
"""

from rewardmesh.trainer.algorithms._policy_gradient import AggregationOption, BaselineOption, PolicyGradient, PolicyGradientConfig


class DrGRPOConfig(PolicyGradientConfig):
    """Options of Dr. GRPO; set constant_length to sampling.max_tokens."""

    baseline: BaselineOption = "group_mean"
    aggregation: AggregationOption = "constant"


class DrGRPO(PolicyGradient):
    """Centred group advantages, token sums over a constant length."""

    name = "dr_grpo"


Config = DrGRPOConfig
create = DrGRPO
