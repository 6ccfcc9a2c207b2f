"""Online IPO: identity preference optimisation on rollouts of the current policy.

Azar et al. 2023 (arXiv 2310.12036), online as in Calandriello et al. 2024 (arXiv 2403.08635). Departures: those of `_preference`. With the
judge's preferences for labels it converges to the regularised Nash policy pi ~ pi_ref exp(P(. beats pi) / beta), also where no reward
explains them.
"""

from pydantic import Field
from torch import Tensor

from rewardmesh.trainer.algorithms._completions import Completions
from rewardmesh.trainer.algorithms._preference import Pairs, PreferenceAlgorithm, PreferenceConfig
from rewardmesh.trainer.losses import identity_preference_loss


class IPOConfig(PreferenceConfig):
    """Options of IPO."""

    length_normalised: bool = Field(default=False, description="log-ratios are means over a completion's tokens instead of sums")


class IPO(PreferenceAlgorithm[IPOConfig]):
    """A squared loss: log-ratios are told apart by (2p - 1) / 2 beta and no further."""

    name = "ipo"

    def pair_loss(self, pairs: Pairs) -> Tensor:
        """Squared."""
        return identity_preference_loss(pairs.margin(self._log_ratio(pairs.completions)), pairs.p_first, self.config.beta)

    def implicit_reward(self, completions: Completions) -> Tensor:
        """beta times the log-ratio."""
        return self.config.beta * self._log_ratio(completions)

    def _log_ratio(self, completions: Completions) -> Tensor:
        return completions.mean_log_ratio if self.config.length_normalised else completions.log_ratio


Config = IPOConfig
create = IPO
