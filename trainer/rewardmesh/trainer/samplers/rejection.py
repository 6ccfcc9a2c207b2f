"""Statistical rejection sampling: from many completions of the policy, a few that are distributed like the optimal policy's.

Liu et al. 2023, "Statistical Rejection Sampling Improves Preference Optimization" (arXiv 2309.06657), algorithm 1: a completion is accepted
with probability exp((r - r_max) / beta), where r_max is the greatest reward of those not accepted yet; passes over the rest go on until
there are enough. What is accepted is a sample of pi * exp(r / beta) / Z as the number of completions grows. beta towards 0 is best-of-n,
beta towards infinity leaves the policy's own distribution.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from pydantic import Field

from rewardmesh.trainer.samplers._base import Sampler, SamplerConfig, StepContext
from rewardmesh.trainer.samplers._scores import DoubleArray, scored
from rewardmesh.trainer.samples import Group


class RejectionConfig(SamplerConfig):
    """How many are accepted, and how sharply."""

    keep: int = Field(2, ge=1, description="completions accepted of a prompt; sampling.completions are drawn")
    beta: float = Field(0.5, gt=0, description="temperature of acceptance, on the reward's scale")


class Rejection(Sampler):
    """Keeps accepted rollouts; those without a reward can be neither accepted nor the maximum."""

    name = "rejection"

    def __init__(self, config: RejectionConfig) -> None:
        self.config = config
        self.completions_min = config.keep

    def keep(self, context: StepContext, groups: Sequence[Group]) -> list[Group | None]:
        """The accepted part of each group; None where nothing has a reward."""
        kept: list[Group | None] = []
        for group in groups:
            indices = scored(group)
            rewards = np.array([group.scores[index].reward for index in indices], dtype=np.float64)
            accepted = accept(rewards, self.config.keep, self.config.beta, context.rng(self.name, group.id))
            kept.append(group.take([indices[place] for place in accepted]) if accepted else None)
        return kept


def acceptance(rewards: DoubleArray, beta: float) -> DoubleArray:
    """float64 [n] in (0, 1]: the probability that each reward is accepted in one pass."""
    probabilities: DoubleArray = np.exp((rewards - rewards.max()) / beta)
    return probabilities


def pass_once(rewards: DoubleArray, beta: float, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """bool [n]: which rewards one pass accepts."""
    passed: npt.NDArray[np.bool_] = rng.random(len(rewards)) < acceptance(rewards, beta)
    return passed


def accept(rewards: DoubleArray, count: int, beta: float, rng: np.random.Generator) -> list[int]:
    """Indices, ascending, of at most `count` accepted rewards; where more pass than are needed, which of them is left to chance."""
    accepted: list[int] = []
    rest = rng.permutation(len(rewards))
    while len(accepted) < count and len(rest):
        passed = pass_once(rewards[rest], beta, rng)
        accepted += rest[passed][: count - len(accepted)].tolist()
        rest = rest[~passed]
    return sorted(accepted)


Config = RejectionConfig
create = Rejection
