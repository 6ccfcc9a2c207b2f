"""INPO: iterative Nash policy optimisation, a no-regret step on pairs of the policy's own samples.

Zhang et al. 2024 (arXiv 2407.00617). The previous policy is the one that sampled, its log-probs are the rollouts'; rollouts of others are
left out. Departures: those of `_preference`; a step is one batch instead of one data set. It converges to the regularised Nash policy
pi ~ pi_ref exp(P(. beats pi) / beta), by steps of size 1 / eta.
"""

from typing import Self

from pydantic import Field, model_validator
from torch import Tensor

from rewardmesh.trainer.algorithms._preference import Pairs, PreferenceAlgorithm, PreferenceConfig
from rewardmesh.trainer.losses.inpo import iterative_nash_loss


class INPOConfig(PreferenceConfig):
    """Options of INPO."""

    beta: float = Field(default=0.0025, gt=0, description="strength of the KL anchor, the paper's tau")
    eta: float = Field(default=0.0075, gt=0, description="inverse step size; the anchor is beta / eta reference, the rest previous policy")

    @model_validator(mode="after")
    def _a_mixture(self) -> Self:
        if self.eta < self.beta:
            raise ValueError("eta must be at least beta: beta / eta is the reference's share of the anchor")
        return self


class INPO(PreferenceAlgorithm[INPOConfig]):
    """The squared loss against a mixture of reference and previous policy."""

    name = "inpo"
    own_samples = True

    def pair_loss(self, pairs: Pairs) -> Tensor:
        """Squared."""
        completions = pairs.completions
        return iterative_nash_loss(
            pairs.margin(completions.log_prob),
            pairs.margin(completions.reference_log_prob),
            pairs.margin(completions.sampling_log_prob),
            pairs.p_first,
            self.config.eta,
            self.config.beta,
        )


Config = INPOConfig
create = INPO
