"""DNO: DPO on labels from win rates against the policy's own samples.

Rosset et al. 2024 (arXiv 2404.03715), algorithm 1: with r(y) the win rate of y, the label of a pair is sigmoid(r(y) - r(y')) and the
anchor is the previous policy; min_margin leaves only pairs of clearly different rates, as in its batched variant. Departures: those of
`_preference`; a step is one batch; anchored to the reference instead, it converges to pi ~ pi_ref exp(P(. beats pi) / beta).
"""

from pydantic import Field
from torch import Tensor

from rewardmesh.trainer.algorithms._completions import Anchor, Completions
from rewardmesh.trainer.algorithms._preference import Pairs, PreferenceAlgorithm, PreferenceConfig
from rewardmesh.trainer.credit.preferences import LabelSource
from rewardmesh.trainer.losses import sigmoid_preference_loss


class DNOConfig(PreferenceConfig):
    """Options of DNO."""

    label_source: LabelSource = Field(default="win_rate", description="win_rate: of each rollout against its group; others as in DPO")
    anchor: Anchor = Field(default="previous", description="policy that log-ratios are to: the previous (which sampled) or the reference")


class DNO(PreferenceAlgorithm[DNOConfig]):
    """The logistic loss of the difference of log-ratios to the anchor."""

    name = "dno"

    def __init__(self, config: DNOConfig) -> None:
        super().__init__(config)
        self.needs_reference = config.anchor == "reference"
        self.own_samples = config.anchor == "previous"

    def pair_loss(self, pairs: Pairs) -> Tensor:
        """Logistic."""
        margin = pairs.margin(pairs.completions.log_ratio_to(self.config.anchor))
        return sigmoid_preference_loss(margin, pairs.p_first, self.config.beta)

    def implicit_reward(self, completions: Completions) -> Tensor:
        """beta times the log-ratio to the anchor."""
        return self.config.beta * completions.log_ratio_to(self.config.anchor)


Config = DNOConfig
create = DNO
