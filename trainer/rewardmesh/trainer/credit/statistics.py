"""Running mean and variance of scores over a whole run: what reward normalisation divides by.

Chan, Golub and LeVeque 1979: counts, means and sums of squared deviations of two parts merge exactly, in any order of batches.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class RunningStatistics:
    """`count` scores of mean `mean` whose squared deviations from it add up to `squares`."""

    count: float = 0.0
    mean: float = 0.0
    squares: float = 0.0

    @property
    def std(self) -> float:
        """Population standard deviation; 0 for none."""
        return float(np.sqrt(self.squares / self.count)) if self.count else 0.0

    def merged(self, count: float, mean: float, std: float) -> "RunningStatistics":
        """With `count` further scores of mean `mean` and population standard deviation `std`."""
        total = self.count + count
        if total == 0:
            return self
        difference = mean - self.mean
        return RunningStatistics(
            count=total,
            mean=self.mean + difference * count / total,
            squares=self.squares + std**2 * count + difference**2 * self.count * count / total,
        )

    def with_scores(self, scores: npt.NDArray[np.float64]) -> "RunningStatistics":
        """With the scores of a batch, float64[n]."""
        return self.merged(scores.size, float(scores.mean()), float(scores.std())) if scores.size else self

    def state(self) -> dict[str, float]:
        """For a checkpoint."""
        return {"reward_count": self.count, "reward_mean": self.mean, "reward_squares": self.squares}

    @classmethod
    def of_state(cls, state: Mapping[str, float]) -> "RunningStatistics":
        """From `state()`."""
        return cls(state["reward_count"], state["reward_mean"], state["reward_squares"])
