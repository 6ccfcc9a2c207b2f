"""RTO: PPO on the token rewards that a preference-tuned policy implies, beside the score of the whole completion.

Zhong et al. 2024, "DPO Meets PPO: Reinforced Token Optimization for RLHF" (arXiv 2404.18922): a token is paid
token_coef (log pi_dpo - log pi_ref), the last one the score too, and the KL to the reference is taken off as in PPO. Departures: the
log-ratios are the token rewards of the group's scores, given by a log-ratio reward signal or by `credit.dense.with_implicit_rewards`;
this algorithm trains no pi_dpo (the recipe `online_dpo` does).
"""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from rewardmesh.trainer.algorithms._dense import DenseConfig, DensePPO
from rewardmesh.trainer.credit.dense import TokenRewards, given_rewards
from rewardmesh.trainer.samples import Group

TokenCoef = Annotated[float, Field(gt=0, description="of the token rewards; where they are log-ratios in nats, the beta of their DPO")]


class RTOConfig(DenseConfig):
    """Options of RTO."""

    token_coef: TokenCoef = 0.05


class RTO(DensePPO):
    """PPO with the given token rewards added."""

    name = "rto"

    def __init__(self, config: RTOConfig) -> None:
        super().__init__(config)
        self._coefficient = config.token_coef

    def token_rewards(self, groups: Sequence[Group]) -> TokenRewards:
        """token_coef times those of the scores."""
        return given_rewards(groups, self._coefficient)


Config = RTOConfig
create = RTO
