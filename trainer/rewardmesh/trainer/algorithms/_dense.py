"""What the algorithms share that are PPO on rewards for parts of a completion: a subclass says what each token is paid beside the score."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field
from torch import Tensor

from rewardmesh.trainer.algorithms.ppo import PPO, PPOConfig
from rewardmesh.trainer.credit import TokenCredit
from rewardmesh.trainer.credit.dense import TokenRewards, require_dense
from rewardmesh.trainer.samples import Group

WithoutTokenRewards = Annotated[
    Literal["drop", "score_only"],
    Field(description="a rollout without them is left out of loss and baseline, or learns from its score alone"),
]


class DenseConfig(PPOConfig):
    """Options of PPO with dense rewards."""

    without_token_rewards: WithoutTokenRewards = "drop"


class DensePPO(PPO, ABC):
    """PPO whose tokens are paid."""

    reads_spans = False
    """Whether it needs the spans of a group's scores; else their token rewards."""

    def __init__(self, config: DenseConfig) -> None:
        super().__init__(config)
        self._drops = config.without_token_rewards == "drop"

    def credit(self, groups: Sequence[Group], rng: np.random.Generator, values: Tensor | None = None) -> TokenCredit:
        """As PPO's; a rollout without token rewards (or spans) is absent as NO_TOKEN_REWARDS, where it is dropped."""
        return super().credit(require_dense(groups, spans=self.reads_spans) if self._drops else groups, rng, values)

    def credit_options(self, groups: Sequence[Group]) -> dict[str, Any]:
        """With what the tokens are paid."""
        return {**super().credit_options(groups), "token_rewards": self.token_rewards(groups)}

    @abstractmethod
    def token_rewards(self, groups: Sequence[Group]) -> TokenRewards:
        """Rewards of the tokens beside the score, by rollout id."""
