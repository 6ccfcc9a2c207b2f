"""Online KTO: completions one by one, each desirable to a degree.

Ethayarajh et al. 2024 (arXiv 2402.01306). Desirability is the win rate within the group, or sigmoid((reward - threshold) / temperature).
Departures: those of `_sequence`, soft desirability, and z: the paper estimates the KL on mismatched pairs because its data is not the
policy's. Ours is, so that the mean over the batch of log pi_t - log pi_ref of the sampling policy estimates it without bias; it is
taken once per batch, and so is the same in every micro-batch.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from rewardmesh.trainer.algorithms._sequence import SequenceAlgorithm, SequenceConfig, Sequences
from rewardmesh.trainer.credit.pairs import Label
from rewardmesh.trainer.losses.kto import kahneman_tversky_loss


class KTOConfig(SequenceConfig):
    """Options of KTO."""

    beta: float = Field(default=0.1, gt=0, description="how fast gains and losses saturate")
    desirability: Literal["group", "threshold"] = Field(default="group", description="win rate in the group, or reward against threshold")
    threshold: float = Field(default=0.0, description="reward of a completion that is as desirable as not, for desirability: threshold")
    label: Label = Field(default="soft", description="hard: desirable or not; exactly between stays .5")
    desirable_weight: float = Field(default=1.0, gt=0, description="weight of gains")
    undesirable_weight: float = Field(default=1.0, gt=0, description="weight of losses")


class KTO(SequenceAlgorithm[KTOConfig]):
    """The prospect-theoretic loss of each log-ratio less the KL."""

    name = "kto"

    def __init__(self, config: KTOConfig) -> None:
        super().__init__(config)
        if config.desirability == "threshold":
            self.target = "reward"
            self.samples_per_prompt_min = 1

    def sequence_loss(self, sequences: Sequences) -> Tensor:
        """Saturating both ways."""
        return kahneman_tversky_loss(
            sequences.completions.log_ratio,
            self._desirability(sequences.targets),
            sequences.kl,
            self.config.beta,
            self.config.desirable_weight,
            self.config.undesirable_weight,
        )

    def _desirability(self, targets: Tensor) -> Tensor:
        soft = targets
        if self.config.desirability == "threshold":
            soft = ((targets - self.config.threshold) / self.config.reward_temperature).sigmoid()
        return (torch.sign(soft - 0.5) + 1) / 2 if self.config.label == "hard" else soft


Config = KTOConfig
create = KTO
