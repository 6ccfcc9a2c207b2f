"""PPO-max: PPO with the stabilisers that mattered in an ablation of its implementations.

Zheng et al. 2023, "Secrets of RLHF in Large Language Models Part I: PPO" (arXiv 2307.04964), section 5. Scores are normalised by
statistics of the whole run and clipped; the per-token KL stays in the reward; policy and value losses are clipped; the critic learns
alone for the first steps. Gradients are clipped by the optimiser, as for every algorithm.
Departures: the critic warms up on the policy's own rollouts instead of being pre-trained; no pre-training gradient is mixed in.
"""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from rewardmesh.trainer.algorithms._rewards import NormaliseRewards, RewardClip
from rewardmesh.trainer.algorithms.ppo import PPO, PPOConfig, ValueCoef
from rewardmesh.trainer.credit import Credit

CriticWarmup = Annotated[int, Field(ge=0, description="steps in which only the critic learns")]


class PPOMaxConfig(PPOConfig):
    """Options of PPO-max."""

    normalise_rewards: NormaliseRewards = True
    reward_clip: RewardClip = 5.0
    vf_coef: ValueCoef = 0.5
    critic_warmup_steps: CriticWarmup = 1


class PPOMax(PPO):
    """PPO that knows how many steps its critic has learned."""

    name = "ppo_max"

    def __init__(self, config: PPOMaxConfig) -> None:
        super().__init__(config)
        self.warmup_steps = config.critic_warmup_steps
        self.steps = 0

    @property
    def policy_coef(self) -> float:
        """0 while the critic warms up."""
        return 0.0 if self.steps < self.warmup_steps else 1.0

    def finish_step(self, credit: Credit) -> dict[str, float]:
        """Counts the step too."""
        self.steps += 1
        return super().finish_step(credit)

    def state(self) -> dict[str, float]:
        """What adapts, and the steps done."""
        return {**super().state(), "steps": float(self.steps)}

    def load_state(self, state: Mapping[str, float]) -> None:
        """Restores `state()`."""
        if "steps" not in state:
            raise ValueError(f"state has {sorted(state)}, steps is missing")
        super().load_state({name: value for name, value in state.items() if name != "steps"})
        self.steps = int(state["steps"])


Config = PPOMaxConfig
create = PPOMax
