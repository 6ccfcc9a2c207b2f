"""BOND: distil best-of-n sampling into the policy, by both Kullback-Leibler divergences at once.

Sessa et al. 2024, "BOND: Aligning LLMs with Best-of-N Distillation" (arXiv 2407.14622): the generalised Jeffreys divergence, a mean of
KL(p_n || pi) and KL(pi || p_n), to the best-of-n policy p_n of an anchor p. Departures: quantiles come from the group's own rollouts,
reweighted to the anchor, instead of from extra samples of the anchor; log p_n - log p is exact for tied rewards instead of the bound
(n - 1) log F; the anchor is the policy that sampled the step (`anchor: policy`, the iterated form with the fastest anchor) or the
reference (`anchor: reference`, one best of n), not an exponential mean of weights.
"""

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import Field, model_validator

from rewardmesh.trainer.algorithms._likelihood import DoubleArray, LikelihoodConfig, WeightedLikelihood
from rewardmesh.trainer.credit.admission import LeftOut
from rewardmesh.trainer.credit.best_of_n import jeffreys_weights
from rewardmesh.trainer.credit.weighted import Candidates
from rewardmesh.trainer.samples import Group


class BONDConfig(LikelihoodConfig):
    """Options of BOND."""

    n: int = Field(default=2, ge=2, description="of best of n")
    forward_share: float = Field(
        default=0.5, ge=0, le=1, description="weight of KL(best of n || policy); the rest is on KL(policy || best of n)"
    )
    anchor: Literal["policy", "reference"] = Field(default="policy", description="whose best of n")

    @model_validator(mode="after")
    def _on_policy(self) -> Self:
        if self.epochs > 1 and self.forward_share < 1:
            raise ValueError("epochs must be 1 unless forward_share is 1: the backward divergence is estimated on the policy's own samples")
        if self.length_normalised:
            raise ValueError("length_normalised does not go with a divergence between sequences")
        return self


class BOND(WeightedLikelihood):
    """Signed weights: towards the best of n, away from what the policy already over-represents."""

    name = "bond"
    samples_per_prompt_min = 2
    weighs_every_rollout = True

    def __init__(self, config: BONDConfig) -> None:
        super().__init__(config)
        self._options = config
        self.needs_reference = config.kl_coef > 0 or config.anchor == "reference"

    def candidates(self, groups: Sequence[Group], left_out: LeftOut) -> list[Candidates]:
        """Only what the policy itself wrote: the divergences are means over its samples."""
        own = []
        for group in groups:
            indices = [index for index, rollout in enumerate(group.rollouts) if rollout.source == "policy"]
            for rollout in group.rollouts:
                if rollout.source != "policy":
                    left_out.sample(rollout, f"source:{rollout.source}")
            if indices:
                own.append(group if len(indices) == len(group.rollouts) else group.take(indices))
        return super().candidates(own, left_out)

    def weigh(self, found: Sequence[Candidates]) -> list[DoubleArray]:
        """Mean `forward_share` in each group."""
        return [self._weights(item) for item in found]

    def _weights(self, item: Candidates) -> DoubleArray:
        sampled = item.log_prob_sums()
        anchor = sampled if self._options.anchor == "policy" else item.reference_sums()
        return jeffreys_weights(item.rewards, sampled, anchor, n=self._options.n, forward_share=self._options.forward_share)


Config = BONDConfig
create = BOND
