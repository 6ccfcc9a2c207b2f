"""Online PRO: preference ranking optimisation over all rollouts of a prompt.

Song et al. 2023 (arXiv 2306.17492): the listwise loss and, weighted by (n - 1)^2, the likelihood of the best of n. Departures: the list is
the policy's own rollouts, ordered by reward or by win rate.
"""

from pydantic import Field
from torch import Tensor

from rewardmesh.trainer.algorithms._sequence import SequenceAlgorithm, SequenceConfig, Sequences
from rewardmesh.trainer.credit.sequences import Target
from rewardmesh.trainer.losses.pro import ranking_loss


class PROConfig(SequenceConfig):
    """Options of PRO."""

    ranked_by: Target = Field(default="reward", description="what orders a group, and by its gaps sets the temperatures")
    sft_weight: float = Field(default=0.05, ge=0, description="times (n - 1)^2: weight of the best completion's negative log-likelihood")


class PRO(SequenceAlgorithm[PROConfig]):
    """Best against the rest, again and again, and the likelihood of the best."""

    name = "pro"
    needs_reference = False
    listwise = True

    def __init__(self, config: PROConfig) -> None:
        super().__init__(config)
        self.target = config.ranked_by

    def sequence_loss(self, sequences: Sequences) -> Tensor:
        """Listwise, each member with its list's loss."""
        completions, present = sequences.completions, sequences.present
        ranking = ranking_loss(sequences.lists(completions.mean_log_prob), sequences.lists(sequences.targets), present)
        likelihood = self.config.sft_weight * (present.sum(dim=1) - 1).square() * -sequences.best(completions.log_prob)
        return sequences.members(ranking + likelihood)


Config = PROConfig
create = PRO
