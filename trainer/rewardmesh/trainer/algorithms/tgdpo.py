"""Online TGDPO: DPO in which each token's anchor is loosened or tightened by its own reward.

Zhu et al. 2025 (arXiv 2506.14574). Token rewards are the implicit ones of the policy so far, beta (log pi_t - log pi_ref) of the policy
that sampled (the paper's come from a DPO policy trained before), or the mesh's. Departures: those of `_preference`.
"""

from typing import Literal

from pydantic import Field
from torch import Tensor

from rewardmesh.trainer.algorithms._preference import Pairs, PreferenceAlgorithm, PreferenceConfig
from rewardmesh.trainer.losses.tgdpo import token_guidance, token_guided_preference_loss


class TGDPOConfig(PreferenceConfig):
    """Options of TGDPO."""

    alpha: float = Field(default=0.5, ge=0, description="how far a token's reward scales its log-ratio; 0 is DPO")
    token_source: Literal["policy", "mesh"] = Field(
        default="policy", description="token rewards: implicit ones of the policy so far, or scored"
    )


class TGDPO(PreferenceAlgorithm[TGDPOConfig]):
    """The logistic loss of the difference of guided log-ratios."""

    name = "tgdpo"

    def __init__(self, config: TGDPOConfig) -> None:
        super().__init__(config)
        self.needs_token_rewards = config.token_source == "mesh"
        self.own_samples = config.token_source == "policy"

    def pair_loss(self, pairs: Pairs) -> Tensor:
        """Logistic, each side once as the better and once as the worse."""
        layout, ratio = pairs.completions.layout, pairs.completions.token_log_ratio
        rewards = pairs.token_rewards
        if rewards is None:
            rewards = self.config.beta * pairs.completions.token_sampling_log_ratio
        better, worse = token_guidance(rewards, self.config.alpha)
        better_first, better_second = pairs.sides(layout.sum(better * ratio))
        worse_first, worse_second = pairs.sides(layout.sum(worse * ratio))
        return token_guided_preference_loss(better_first, worse_first, better_second, worse_second, pairs.p_first, self.config.beta)


Config = TGDPOConfig
create = TGDPO
