"""Online DPO: direct preference optimisation on rollouts of the current policy.

Guo et al. 2024, "Direct Language Model Alignment from Online AI Feedback" (arXiv 2402.04792), with the loss of Rafailov et al. 2023 (arXiv
2305.18290); label_smoothing > 0 is conservative DPO. Departures: those of `_preference`. With reward temperature 1 it converges to
pi_ref exp(reward / beta) / Z; hard labels converge to no such thing.
"""

from torch import Tensor

from rewardmesh.trainer.algorithms._preference import Pairs, PreferenceAlgorithm, PreferenceConfig
from rewardmesh.trainer.losses import sigmoid_preference_loss


class OnlineDPOConfig(PreferenceConfig):
    """Options of online DPO; the defaults are those of the demo."""


class OnlineDPO(PreferenceAlgorithm[OnlineDPOConfig]):
    """The logistic loss of the difference of log-ratios to the reference."""

    name = "online_dpo"

    def pair_loss(self, pairs: Pairs) -> Tensor:
        """Logistic."""
        return sigmoid_preference_loss(pairs.margin(pairs.completions.log_ratio), pairs.p_first, self.config.beta)


Config = OnlineDPOConfig
create = OnlineDPO
