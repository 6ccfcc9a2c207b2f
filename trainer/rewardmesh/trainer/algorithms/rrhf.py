"""Online RRHF: likelihoods ordered as rewards are.

Yuan et al. 2023 (arXiv 2304.05302): the ranking hinge over all pairs of a prompt's rollouts and the likelihood of the best. Departures: the
list is the policy's own rollouts, ordered by reward or by win rate.
"""

from pydantic import Field
from torch import Tensor

from rewardmesh.trainer.algorithms._sequence import SequenceAlgorithm, SequenceConfig, Sequences
from rewardmesh.trainer.credit.sequences import Target
from rewardmesh.trainer.losses.rrhf import ranking_hinge_loss


class RRHFConfig(SequenceConfig):
    """Options of RRHF."""

    ranked_by: Target = Field(default="reward", description="what orders a group")
    sft_weight: float = Field(default=1.0, ge=0, description="weight of the best completion's negative log-likelihood")


class RRHF(SequenceAlgorithm[RRHFConfig]):
    """Pairs out of order, and the likelihood of the best."""

    name = "rrhf"
    needs_reference = False
    listwise = True

    def __init__(self, config: RRHFConfig) -> None:
        super().__init__(config)
        self.target = config.ranked_by

    def sequence_loss(self, sequences: Sequences) -> Tensor:
        """Listwise, each member with its list's loss."""
        mean_log_prob = sequences.lists(sequences.completions.mean_log_prob)
        ranking = ranking_hinge_loss(mean_log_prob, sequences.lists(sequences.targets), sequences.present)
        return sequences.members(ranking - self.config.sft_weight * sequences.best(sequences.completions.log_prob))


Config = RRHFConfig
create = RRHF
