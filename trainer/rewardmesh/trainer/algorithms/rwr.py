"""Reward-weighted regression: fine-tune on every completion, weighted by the exponential of its reward.

Peters and Schaal 2007, "Reinforcement Learning by Reward-weighted Regression"; for language models Hu et al. 2023 (arXiv 2308.12050).
Each step's minimum is pi exp(r / beta) / Z for the policy pi that sampled: beta is the step size, and without `kl_coef` the iteration
ends at the best completion. Departure: weights are normalised within the group (its baseline) unless told otherwise.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import Field

from rewardmesh.trainer.algorithms._likelihood import DoubleArray, LikelihoodConfig, WeightedLikelihood
from rewardmesh.trainer.credit.best_of_n import exponential_weights
from rewardmesh.trainer.credit.weighted import Candidates


class RWRConfig(LikelihoodConfig):
    """Options of reward-weighted regression."""

    beta: float = Field(default=1.0, gt=0, description="temperature of the weights, in units of the reward")
    normalise: Literal["group", "batch"] = Field(default="group", description="over what the weights are normalised")


class RewardWeightedRegression(WeightedLikelihood):
    """exp(reward / beta), normalised."""

    name = "rwr"

    def __init__(self, config: RWRConfig) -> None:
        super().__init__(config)
        self._options = config
        if config.normalise == "group":
            self.samples_per_prompt_min = 2

    def weigh(self, found: Sequence[Candidates]) -> list[DoubleArray]:
        """Sum 1 for each group, or as much over the batch."""
        if self._options.normalise == "group" or not found:
            return [exponential_weights(item.rewards, self._options.beta) for item in found]
        weights = len(found) * exponential_weights(np.concatenate([item.rewards for item in found]), self._options.beta)
        return np.split(weights, np.cumsum([len(item.rewards) for item in found])[:-1])


Config = RWRConfig
create = RewardWeightedRegression
