"""SuperHF: fine-tune on the best completion of each prompt under a KL prior.

Mukobi et al. 2023, "SuperHF: Supervised Iterative Learning from Human Feedback" (arXiv 2310.16763). Departures: the prior's divergence
is estimated on the sampled tokens (by k3, see `_likelihood`), not over the vocabulary, and on every scored completion instead of the
chosen ones, so that its expectation is that of KL(reference || policy); tied best completions share the weight.
"""

from collections.abc import Sequence

from pydantic import Field

from rewardmesh.trainer.algorithms._likelihood import DoubleArray, LikelihoodConfig, WeightedLikelihood
from rewardmesh.trainer.credit.best_of_n import best_of_n_weights
from rewardmesh.trainer.credit.weighted import Candidates


class SuperHFConfig(LikelihoodConfig):
    """Options of SuperHF."""

    kl_coef: float = Field(default=0.35, gt=0, description="weight of KL(reference || policy) in the loss")


class SuperHF(WeightedLikelihood):
    """All weight on the best of each prompt, and an anchor."""

    name = "superhf"
    samples_per_prompt_min = 2

    def weigh(self, found: Sequence[Candidates]) -> list[DoubleArray]:
        """Sum 1 for each group."""
        return [best_of_n_weights(item.rewards, len(item.rewards)) for item in found]


Config = SuperHFConfig
create = SuperHF
