"""RAFT: fine-tune on the best completion of each prompt.

Dong et al. 2023, "RAFT: Reward rAnked FineTuning" (arXiv 2304.06767), algorithm 1 with local ranking; `ranking: global` keeps the same
share of the whole batch instead. Departures: tied best completions share the weight; a group with fewer than two scored completions
says nothing about which is better and is left out.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import Field

from rewardmesh.trainer.algorithms._likelihood import DoubleArray, LikelihoodConfig, WeightedLikelihood
from rewardmesh.trainer.credit.best_of_n import best_of_n_weights, top_weights
from rewardmesh.trainer.credit.weighted import Candidates


class RAFTConfig(LikelihoodConfig):
    """Options of RAFT."""

    best_of: int | None = Field(default=None, ge=2, description="n of best of n, averaged over subsets; unset for all of a group")
    ranking: Literal["local", "global"] = Field(default="local", description="the best of each prompt, or as many of the batch")


class RAFT(WeightedLikelihood):
    """All weight on the best."""

    name = "raft"
    samples_per_prompt_min = 2

    def __init__(self, config: RAFTConfig) -> None:
        super().__init__(config)
        self._options = config

    def weigh(self, found: Sequence[Candidates]) -> list[DoubleArray]:
        """Sum 1 for each group, or as much over the batch."""
        if self._options.ranking == "local":
            return [best_of_n_weights(item.rewards, min(self._options.best_of or len(item.rewards), len(item.rewards))) for item in found]
        if not found:
            return []
        rewards = np.concatenate([item.rewards for item in found])
        keep = round(len(rewards) / self._options.best_of) if self._options.best_of else len(found)
        cuts = np.cumsum([len(item.rewards) for item in found])[:-1]
        return np.split(top_weights(rewards, max(keep, 1)), cuts)


Config = RAFTConfig
create = RAFT
