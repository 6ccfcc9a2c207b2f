"""GSPO: GRPO with one, length-normalised ratio per completion.

Zheng et al. 2025, "Group Sequence Policy Optimization" (arXiv 2507.18071): a score is given to a completion, so its importance ratio is
the completion's, the geometric mean of its tokens'. A few 1e-4 of it clip far more tokens than PPO's 0.2 and keep mixtures of experts
stable. With one optimiser step per batch it has GRPO's gradient.
"""

from rewardmesh.trainer.algorithms._policy_gradient import (
    AggregationOption,
    BaselineOption,
    PolicyGradientConfig,
    SequenceRatio,
    WholeCompletions,
)
from rewardmesh.trainer.algorithms._rewards import Clip, ClipHigh


class GSPOConfig(PolicyGradientConfig):
    """Options of GSPO."""

    baseline: BaselineOption = "group_standard"
    token_returns: WholeCompletions = False
    aggregation: AggregationOption = "sequence"
    clip: Clip = 3e-4
    clip_high: ClipHigh = 4e-4


class GSPO(SequenceRatio):
    """Standardised group advantages, one mean ratio per completion."""

    name = "gspo"
    ratio = "mean"


Config = GSPOConfig
create = GSPO
