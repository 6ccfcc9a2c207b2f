"""ABC: PPO on the score shared out over the tokens by the reward model's attention.

Chan et al. 2024, "Dense Reward for Free in Reinforcement Learning from Human Feedback" (arXiv 2402.00782): `share` of the score goes to
the tokens in proportion to the attention that the reward model's last layer pays them, the rest stays at the end. It is potential-based
shaping, up to what attention knows of later tokens (see `credit.shaping`). `token_map: rewards` takes token rewards of any sign that
account for the score, such as differences of a reward model's scores of successive prefixes (Li et al. 2024, RED, arXiv 2411.08302),
and shapes by their running sum. Departures: with gamma < 1 the potentials are discounted, so that the shaping stays exact; what is moved
is `share` of the composed reward as it came, before normalisation and clipping.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from rewardmesh.trainer.algorithms._dense import DenseConfig, DensePPO
from rewardmesh.trainer.credit.dense import TokenRewards, shared_out_rewards
from rewardmesh.trainer.samples import Group

Share = Annotated[float, Field(gt=0, le=1, description="part of the score that is shared out over the tokens")]
TokenMap = Annotated[Literal["attention", "rewards"], Field(description="the token rewards are proportions, or amounts of either sign")]


class ABCConfig(DenseConfig):
    """Options of ABC."""

    share: Share = 0.5
    token_map: TokenMap = "attention"


class ABCPPO(DensePPO):
    """PPO with the score shared out."""

    name = "abc_ppo"

    def __init__(self, config: ABCConfig) -> None:
        super().__init__(config)
        self._options = config

    def token_rewards(self, groups: Sequence[Group]) -> TokenRewards:
        """What moves from the last token to the others."""
        return shared_out_rewards(groups, self._options.share, self._options.token_map, self._options.gamma)


Config = ABCConfig
create = ABCPPO
