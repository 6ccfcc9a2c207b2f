"""CISPO: the importance weight is clipped, not the update.

MiniMax 2025, "MiniMax-M1" (arXiv 2506.13585): PPO's clip silences the tokens whose probability has moved most, which are the rare ones
that begin a reflection; a capped weight keeps the gradient of all. Standardised group advantages, token mean, no KL.
"""

from typing import Annotated

from pydantic import Field
from torch import Tensor

from rewardmesh.trainer.algorithms._policy_gradient import BaselineOption, PolicyGradient, PolicyGradientConfig
from rewardmesh.trainer.credit import TokenCredit
from rewardmesh.trainer.losses import capped_importance_loss

Cap = Annotated[float, Field(gt=0, description="greatest importance weight of a token")]


class CISPOConfig(PolicyGradientConfig):
    """Options of CISPO; `clip` says only what `clip_fraction` counts."""

    baseline: BaselineOption = "group_standard"
    cap: Cap = 5.0


class CISPO(PolicyGradient):
    """Standardised group advantages under a capped weight."""

    name = "cispo"

    def __init__(self, config: CISPOConfig) -> None:
        super().__init__(config)
        self.cap = config.cap

    def policy_losses(self, credit: TokenCredit, log_probs: Tensor, log_ratio: Tensor) -> Tensor:
        """Capped loss of each token, Tensor[N]."""
        device = log_probs.device
        return capped_importance_loss(log_probs, credit.old_log_probs.to(device), credit.advantages.to(device), self.cap)


Config = CISPOConfig
create = CISPO
