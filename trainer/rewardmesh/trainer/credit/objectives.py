"""Several objectives at once: their values per rollout, an advantage for each, and Lagrange multipliers that hold some to a threshold.

Constrained policies: maximise E[r] subject to E[c_i] >= t_i (or <= t_i), as Moskovitz et al. 2023 (arXiv 2310.04373) and Dai et al. 2023
("Safe RLHF", arXiv 2310.12773) do for language models. Each objective has a baseline, and where wanted a scale, of its own, so that one
with large numbers cannot drown the others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, log
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from rewardmesh.trainer.samples import Group

DoubleArray = npt.NDArray[np.float64]

SCALE_EPSILON = 1e-4


class Constraint(BaseModel):
    """A bound on the mean of one component over the policy's completions."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    component: str = Field(min_length=1, description="name of the signal")
    bound: Literal["at_least", "at_most"] = Field(default="at_least", description="which side of the threshold is wanted")
    threshold: float = Field(description="on the component's scale")

    @property
    def sign(self) -> int:
        """+1 where more is better."""
        return 1 if self.bound == "at_least" else -1

    def violation(self, mean: float) -> float:
        """How far `mean` is on the wrong side, negative when it is on the right one."""
        return self.sign * (self.threshold - mean)


def component_values(group: Group, indices: Sequence[int], names: Sequence[str]) -> DoubleArray:
    """float64[k, c]: components `names` of the rollouts at `indices`, NaN where a component is absent."""
    values = np.full((len(indices), len(names)), np.nan)
    for row, index in enumerate(indices):
        for column, name in enumerate(names):
            value = group.scores[index].components.get(name)
            if value is not None:
                values[row, column] = value
    return values


def objective_advantages(values: DoubleArray, *, scale: bool) -> DoubleArray:
    """float64[k, c]: each column of float64[k, c] less its mean; with `scale` over its unbiased standard deviation + 1e-4."""
    centred = values - values.mean(axis=0)
    if not scale:
        return np.asarray(centred, dtype=np.float64)
    return np.asarray(centred / (values.std(axis=0, ddof=1) + SCALE_EPSILON), dtype=np.float64)


def lagrangian_advantages(objective: DoubleArray, constrained: DoubleArray, multipliers: DoubleArray, signs: DoubleArray) -> DoubleArray:
    """float64[k]: (A_r + sum_i lambda_i s_i A_i) / (1 + sum_i lambda_i), a step of about the same size whatever the multipliers.

    `objective` float64[k], `constrained` float64[k, c], `multipliers` >= 0 and `signs` +-1 float64[c].
    """
    return np.asarray((objective + constrained @ (multipliers * signs)) / (1 + multipliers.sum()), dtype=np.float64)


@dataclass
class Multiplier:
    """One Lagrange multiplier, kept as its logarithm and so never negative.

    log lambda += rate * violation, within [least, most]. Departure from Safe RLHF: no factor lambda in the step, so that a multiplier
    that fell while its constraint held rises again as fast; `least` keeps one above 0 for the same reason.
    """

    value: float
    rate: float
    least: float
    most: float

    def update(self, violation: float) -> None:
        """`violation` > 0 means that the constraint does not hold."""
        moved = log(self.value) + self.rate * violation
        self.value = exp(min(max(moved, log(self.least)), log(self.most)))


def multiplier_state(multipliers: Mapping[str, Multiplier]) -> dict[str, float]:
    """What a checkpoint keeps."""
    return {f"multiplier/{name}": multiplier.value for name, multiplier in multipliers.items()}


def load_multiplier_state(multipliers: Mapping[str, Multiplier], state: Mapping[str, float]) -> None:
    """Restores `multiplier_state`. ValueError when the names differ."""
    if set(state) != set(multiplier_state(multipliers)):
        raise ValueError(f"state has {sorted(state)}, this configuration keeps {sorted(multiplier_state(multipliers))}")
    for name, multiplier in multipliers.items():
        multiplier.value = state[f"multiplier/{name}"]
