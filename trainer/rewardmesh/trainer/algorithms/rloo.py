"""RLOO: REINFORCE on whole completions with the leave-one-out baseline.

Ahmadian et al. 2024, "Back to Basics" (arXiv 2402.14740). The KL penalty of the completion is in its reward, so that
pi_ref exp(reward / kl_coef) / Z is the optimum; no critic, no standardisation. Departure: a clip of the completion's ratio, which acts
only when a batch gives several optimiser steps.
"""

from rewardmesh.trainer.algorithms._policy_gradient import (
    AggregationOption,
    BaselineOption,
    KLIn,
    PolicyGradientConfig,
    SequenceRatio,
    WholeCompletions,
)
from rewardmesh.trainer.algorithms._rewards import KLCoef


class RLOOConfig(PolicyGradientConfig):
    """Options of RLOO."""

    baseline: BaselineOption = "leave_one_out"
    token_returns: WholeCompletions = False
    kl_in: KLIn = "reward"
    kl_coef: KLCoef = 0.03
    aggregation: AggregationOption = "sequence"


class RLOO(SequenceRatio):
    """Leave-one-out advantages, one ratio per completion."""

    name = "rloo"
    ratio = "sum"


Config = RLOOConfig
create = RLOO
