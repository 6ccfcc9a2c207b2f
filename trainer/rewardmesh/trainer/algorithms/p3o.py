"""P3O: the policy gradient of reward differences within a prompt.

Wu et al. 2023, "Pairwise Proximal Policy Optimization" (arXiv 2310.00212): rewards that differ by a function of the prompt alone, as
rewards fitted to comparisons do, give the same update; completions are whole actions and there is no critic. The KL penalty is in the
reward. Departure: all pairs of a group instead of two completions per prompt; their mean is taken per completion.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from rewardmesh.trainer.algorithms._policy_gradient import (
    AggregationOption,
    KLIn,
    PolicyGradientConfig,
    SequenceRatio,
    WholeCompletions,
)
from rewardmesh.trainer.algorithms._rewards import KLCoef
from rewardmesh.trainer.credit import TokenCredit
from rewardmesh.trainer.credit.base import group_units
from rewardmesh.trainer.losses import joint_pairwise_loss, separate_pairwise_loss

_LOSSES = {"separate": separate_pairwise_loss, "joint": joint_pairwise_loss}

Clipping = Annotated[Literal["separate", "joint"], Field(description="clip each completion's ratio, or the pair's log-ratio")]
GroupMean = Annotated[Literal["group_mean"], Field(description="only for show: differences have no baseline")]


class P3OConfig(PolicyGradientConfig):
    """Options of P3O."""

    baseline: GroupMean = "group_mean"
    token_returns: WholeCompletions = False
    kl_in: KLIn = "reward"
    kl_coef: KLCoef = 0.05
    aggregation: AggregationOption = "sequence"
    clipping: Clipping = "joint"


class P3O(SequenceRatio):
    """Returns of whole completions, and a clipped loss per pair."""

    name = "p3o"
    ratio = "sum"
    whole_groups = True

    def __init__(self, config: P3OConfig) -> None:
        super().__init__(config)
        self.pair_loss = _LOSSES[config.clipping]

    def policy_losses(self, credit: TokenCredit, log_probs: Tensor, log_ratio: Tensor) -> Tensor:
        """A completion's mean loss over its pairs, at each of its tokens, float64 Tensor[N]; the batch's mean is that over pairs."""
        layout, device = credit.layout, log_ratio.device
        at = layout.offsets[:-1].to(device)
        of_sequence, returns = log_ratio[at], credit.advantages.to(device)[at]
        losses = of_sequence.new_zeros(layout.sequences)
        for unit in group_units(credit.rollouts):
            if len(unit) > 1:  # a truncated partner may have been masked; then there is nothing to compare with
                members = torch.tensor(unit, device=device)
                first, second = members[torch.triu_indices(len(unit), len(unit), 1, device=device)]
                of_pair = self.pair_loss(of_sequence[first], of_sequence[second], returns[first] - returns[second], self.config.clip)
                share = of_pair / (len(unit) - 1)
                losses = losses.index_add(0, first, share).index_add(0, second, share)
        return losses[layout.sequence_index.to(device)]


Config = P3OConfig
create = P3O
