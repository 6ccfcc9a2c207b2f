"""Advantage-induced policy alignment: PPO's credit, and a regression of the policy on it instead of a clipped ratio.

Zhu et al. 2023, "Fine-Tuning Language Models with Advantage-Induced Policy Alignment" (arXiv 2306.02231): the squared difference between
log pi / pi_init and the advantage over lambda. The initial policy is the reference, in the loss and not in the reward, and bounds the
drift by itself; there is no ratio that could leave its clip.
Departure: pi_init is the mesh's reference policy, and the normaliser of its target is taken for 1, as in the paper.
"""

from typing import Annotated

from pydantic import Field
from torch import Tensor

from rewardmesh.trainer.algorithms._rewards import KLCoef
from rewardmesh.trainer.algorithms.ppo import PPO, PPOConfig
from rewardmesh.trainer.credit import TokenCredit
from rewardmesh.trainer.losses import squared_advantage_loss

AdvantageTemperature = Annotated[float, Field(gt=0, description="lambda: log pi / pi_init is drawn to the advantage over it")]


class APAConfig(PPOConfig):
    """Options of APA; those of the policy's clip say only what `clip_fraction` counts."""

    kl_coef: KLCoef = 0.0
    advantage_temperature: AdvantageTemperature = 0.1


class APA(PPO):
    """PPO with the squared advantage-induced loss."""

    name = "apa"

    def __init__(self, config: APAConfig) -> None:
        super().__init__(config)
        self.needs_reference = True
        self.temperature = config.advantage_temperature

    def policy_losses(self, credit: TokenCredit, log_probs: Tensor) -> Tensor:
        """Squared loss of each token, Tensor[N]."""
        if credit.reference_log_probs is None:
            raise ValueError("reference_log_probs must be given: APA regresses on the initial policy")
        device = log_probs.device
        return squared_advantage_loss(log_probs, credit.reference_log_probs.to(device), credit.advantages.to(device), self.temperature)


Config = APAConfig
create = APA
