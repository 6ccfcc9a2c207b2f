"""ReST: fine-tune on the completions above a threshold that rises.

Gulcehre et al. 2023, "Reinforced Self-Training for Language Modeling" (arXiv 2308.08998), with the threshold filter.
Departures: grow and improve alternate every step, so each threshold meets fresh samples instead of one stored set; thresholds are
quantiles of the step's rewards unless told otherwise, because programs have no common scale; a reward equal to the threshold counts.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, Self

import numpy as np
from pydantic import Field, model_validator

from rewardmesh.trainer.algorithms._likelihood import DoubleArray, LikelihoodConfig, WeightedLikelihood
from rewardmesh.trainer.credit import Credit
from rewardmesh.trainer.credit.weighted import Candidates


class ReSTConfig(LikelihoodConfig):
    """Options of ReST."""

    thresholds: tuple[float, ...] = Field(default=(0.0, 0.7, 0.8, 0.9), min_length=1, description="ascending; the last one stays")
    threshold_scale: Literal["quantile", "reward"] = Field(default="quantile", description="what a threshold is a number of")
    steps_per_threshold: int = Field(default=5, ge=1, description="steps before the next threshold")

    @model_validator(mode="after")
    def _thresholds_rise(self) -> Self:
        if list(self.thresholds) != sorted(set(self.thresholds)):
            raise ValueError("thresholds must ascend")
        if self.threshold_scale == "quantile" and not (self.thresholds[0] >= 0 and self.thresholds[-1] <= 1):
            raise ValueError("thresholds must lie in [0, 1]: they are quantiles")
        return self


class ReST(WeightedLikelihood):
    """Weight 1 for what reaches the threshold."""

    name = "rest"

    def __init__(self, config: ReSTConfig) -> None:
        super().__init__(config)
        self._options = config
        self._steps = 0

    @property
    def threshold(self) -> float:
        """The threshold in force."""
        thresholds = self._options.thresholds
        return thresholds[min(self._steps // self._options.steps_per_threshold, len(thresholds) - 1)]

    def weigh(self, found: Sequence[Candidates]) -> list[DoubleArray]:
        """1 or 0."""
        if not found:
            return []
        threshold = self.threshold
        if self._options.threshold_scale == "quantile":
            # "lower" is one of the rewards: whatever the level, something reaches it.
            threshold = float(np.quantile(np.concatenate([item.rewards for item in found]), threshold, method="lower"))
        return [(item.rewards >= threshold).astype(np.float64) for item in found]

    def finish_step(self, credit: Credit) -> dict[str, float]:
        """Counts the steps that learned something."""
        metrics = {"threshold": self.threshold}
        self._steps += 1
        return metrics

    def state(self) -> dict[str, float]:
        """Steps so far."""
        return {"steps": float(self._steps)}

    def load_state(self, state: Mapping[str, float]) -> None:
        """Restores `state()`."""
        if set(state) != {"steps"}:
            raise ValueError(f"state has {sorted(state)}, this algorithm keeps ['steps']")
        self._steps = int(state["steps"])


Config = ReSTConfig
create = ReST
