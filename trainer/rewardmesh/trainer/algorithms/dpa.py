"""Directional preference alignment: one policy for many tastes, by rejection sampling along the direction that a prompt asks for.

Wang et al. 2024, "Arithmetic Control of LLMs for Diverse User Preferences" (arXiv 2402.18571): the prompt says a unit vector over the
objectives (see `credit.directions`), the completion best along it is fine-tuned on. Departures: the vector is drawn per prompt and step
over the objectives' own scales; objectives are the reward program's signals, not the heads of one model; ties share the weight.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import Field, PositiveFloat

from rewardmesh.trainer.algorithms._likelihood import DoubleArray, LikelihoodConfig, WeightedLikelihood
from rewardmesh.trainer.credit.admission import LeftOut
from rewardmesh.trainer.credit.best_of_n import best_of_n_weights
from rewardmesh.trainer.credit.directions import direction_of, directional_rewards
from rewardmesh.trainer.credit.weighted import Candidates
from rewardmesh.trainer.samples import Group


class DPAConfig(LikelihoodConfig):
    """Options of directional preference alignment."""

    scales: Mapping[str, PositiveFloat] = Field(default_factory=dict, description="unit of an objective, by signal; 1 where not named")


class DPA(WeightedLikelihood):
    """All weight on the best of each group along its direction."""

    name = "dpa"
    samples_per_prompt_min = 2
    needs_sampler = "direction"

    def __init__(self, config: DPAConfig) -> None:
        super().__init__(config)
        self._options = config

    def candidates(self, groups: Sequence[Group], left_out: LeftOut) -> list[Candidates]:
        """The rollouts with every component of their group's direction, with the reward along it."""
        along = [self._along(item, left_out) for item in super().candidates(groups, left_out)]
        return [item for item in along if item is not None]

    def _along(self, item: Candidates, left_out: LeftOut) -> Candidates | None:
        direction = direction_of(item.group.tags)
        scaled = {name: weight / self._options.scales.get(name, 1.0) for name, weight in direction.items()}
        rewards = directional_rewards(item.group, item.indices, scaled)
        kept: list[tuple[int, float]] = []
        for index, reward in zip(item.indices, rewards.tolist(), strict=True):
            if np.isnan(reward):
                left_out.sample(item.group.rollouts[index], "absent_component")
            else:
                kept.append((index, reward))
        reason = "no_direction" if not direction else "too_few_scored_rollouts" if len(kept) < self.samples_per_prompt_min else ""
        if not reason:
            return Candidates(item.group, tuple(index for index, _ in kept), np.array([reward for _, reward in kept]))
        left_out.group(reason)
        for index, _ in kept:
            left_out.sample(item.group.rollouts[index], reason)
        return None

    def weigh(self, found: Sequence[Candidates]) -> list[DoubleArray]:
        """Sum 1 for each group."""
        return [best_of_n_weights(item.rewards, len(item.rewards)) for item in found]


Config = DPAConfig
create = DPA
