"""Nash-MD: policy gradient on the win rate against a mixture of policy and reference.

Munos et al. 2023 (arXiv 2312.00886). Opponents are the group's rollouts of source "mixture", which a sampler must supply; a group without
any plays against itself (self-play, the paper's mixture of weight 0, with the same equilibrium). Only own rollouts teach. Departures:
those of `_sequence`; the KL is the whole completion's. The gradient is that of the step's own samples: leave epochs and minibatches at
1. It converges to the regularised Nash policy pi ~ pi_ref exp(P(. beats pi) / beta).
"""

from pydantic import Field
from torch import Tensor

from rewardmesh.trainer.algorithms._sequence import SequenceAlgorithm, SequenceConfig, Sequences
from rewardmesh.trainer.losses.nash_md import nash_policy_loss
from rewardmesh.trainer.samples import Source


class NashMDConfig(SequenceConfig):
    """Options of Nash-MD."""

    beta: float = Field(default=0.1, gt=0, description="strength of the KL anchor")


class NashMD(SequenceAlgorithm[NashMDConfig]):
    """REINFORCE on win rate less 1/2 and the anchor."""

    name = "nash_md"
    opponent: Source | None = "mixture"
    own_samples = True

    def sequence_loss(self, sequences: Sequences) -> Tensor:
        """Policy gradient."""
        completions = sequences.completions
        return nash_policy_loss(completions.log_prob, completions.log_ratio, sequences.targets, self.config.beta)


Config = NashMDConfig
create = NashMD
