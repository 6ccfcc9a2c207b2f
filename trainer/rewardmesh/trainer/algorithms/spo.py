"""SPO: reinforcement learning on win rates against the policy's own rollouts.

Swamy et al. 2024, "A Minimaximalist Approach" (arXiv 2401.04056). Departures: those of `_sequence`; the policy gradient is a clipped one of
whole completions, and beta > 0 adds an anchor to the reference, beta rho^2 / 2 of each completion, whose gradient on own samples is
that of the KL. With it, it converges to pi ~ pi_ref exp(P(. beats pi) / beta); without, to the minimax winner.
"""

from pydantic import Field
from torch import Tensor

from rewardmesh.trainer.algorithms._sequence import SequenceAlgorithm, SequenceConfig, Sequences
from rewardmesh.trainer.losses import k2
from rewardmesh.trainer.losses.spo import self_play_policy_loss


class SPOConfig(SequenceConfig):
    """Options of SPO."""

    beta: float = Field(default=0.0, ge=0, description="strength of the KL anchor; 0 needs no reference")
    clip: float = Field(default=0.2, gt=0, description="of the completion's probability ratio to the policy that sampled it")


class SPO(SequenceAlgorithm[SPOConfig]):
    """The clipped policy loss of win rate less 1/2."""

    name = "spo"
    own_samples = True

    def __init__(self, config: SPOConfig) -> None:
        super().__init__(config)
        self.needs_reference = config.beta > 0

    def sequence_loss(self, sequences: Sequences) -> Tensor:
        """Policy gradient, and the anchor."""
        completions = sequences.completions
        loss = self_play_policy_loss(completions.log_ratio_to("previous"), sequences.targets, self.config.clip)
        if self.config.beta == 0:
            return loss
        return loss + self.config.beta * k2(completions.log_prob, completions.reference_log_prob)


Config = SPOConfig
create = SPO
