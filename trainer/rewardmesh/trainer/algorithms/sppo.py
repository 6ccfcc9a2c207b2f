"""SPPO: self-play preference optimisation, a regression of log-ratios on win rates.

Wu et al. 2024 (arXiv 2405.00675). Win rates are against the policy's other rollouts of the prompt, soft. Departures: those of `_sequence`;
a step is one batch instead of one data set; anchored to the reference instead of the previous policy, it converges to the regularised
Nash policy pi ~ pi_ref exp(P(. beats pi) / beta).
"""

from pydantic import Field
from torch import Tensor

from rewardmesh.trainer.algorithms._completions import Anchor
from rewardmesh.trainer.algorithms._sequence import SequenceAlgorithm, SequenceConfig, Sequences
from rewardmesh.trainer.losses.sppo import self_play_loss


class SPPOConfig(SequenceConfig):
    """Options of SPPO."""

    beta: float = Field(default=0.001, gt=0, description="inverse of the paper's eta: the log-ratio aimed at is (P - 1/2) / beta")
    anchor: Anchor = Field(default="previous", description="policy that log-ratios are to: the previous (which sampled) or the reference")


class SPPO(SequenceAlgorithm[SPPOConfig]):
    """The squared distance of each log-ratio to its win rate's."""

    name = "sppo"

    def __init__(self, config: SPPOConfig) -> None:
        super().__init__(config)
        self.needs_reference = config.anchor == "reference"
        self.own_samples = config.anchor == "previous"

    def sequence_loss(self, sequences: Sequences) -> Tensor:
        """Squared."""
        return self_play_loss(sequences.completions.log_ratio_to(self.config.anchor), sequences.targets, self.config.beta)


Config = SPPOConfig
create = SPPO
