"""SePPO: own samples against those of an earlier checkpoint, which may be winners too.

Zhang et al. 2024 (arXiv 2410.05255). It pairs a rollout of source "checkpoint", which a sampler must supply, with each other one of its
group. Departures: those of `_preference` and of the loss; the reference is the run's and not the checkpoint of the moment, so that a
checkpoint far from it flips less reliably.
"""

from torch import Tensor

from rewardmesh.trainer.algorithms._preference import Pairs, PreferenceAlgorithm, PreferenceConfig
from rewardmesh.trainer.losses.seppo import semi_policy_preference_loss
from rewardmesh.trainer.samples import Source


class SePPOConfig(PreferenceConfig):
    """Options of SePPO."""


class SePPO(PreferenceAlgorithm[SePPOConfig]):
    """The logistic loss with flips."""

    name = "seppo"
    across: Source | None = "checkpoint"
    needs_sampler = "opponent"

    def pair_loss(self, pairs: Pairs) -> Tensor:
        """Logistic, the checkpoint's sample as loser or as another winner."""
        first, second = pairs.sides(pairs.completions.log_ratio)
        return semi_policy_preference_loss(first, second, pairs.p_first, self.config.beta)


Config = SePPOConfig
create = SePPO
