"""MA-PPO: PPO over macro actions, runs of tokens that are one action.

Chai et al. 2024, "MA-RLHF" (arXiv 2410.02743): with fewer, longer actions the score at the end reaches the beginning in fewer steps of
advantage estimation. Advantage, ratio, clip and critic are per macro action; 1 token per macro action is PPO.
Departures: the value of a macro action is that of the state it begins in, as in a semi-Markov process, and the critic learns that one
state; the authors average the values of its tokens. Its reward is the sum of its tokens' rewards. The discount counts macro actions.
"""

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor

from rewardmesh.trainer.algorithms.ppo import PPO, PPOConfig
from rewardmesh.trainer.credit import TokenCredit
from rewardmesh.trainer.losses import clipped_policy_loss, macro_index, macro_sum
from rewardmesh.trainer.samples import Group

MacroTokens = Annotated[int, Field(ge=2, description="most tokens of a macro action")]
MacroEndIds = Annotated[tuple[int, ...], Field(description="token ids that end a macro action early, such as those of full stops")]


class MacroPPOConfig(PPOConfig):
    """Options of MA-PPO."""

    macro_tokens: MacroTokens = 5
    macro_end_ids: MacroEndIds = ()


class MacroPPO(PPO):
    """PPO whose actions are macro actions."""

    name = "ma_ppo"

    def __init__(self, config: MacroPPOConfig) -> None:
        super().__init__(config)
        self.macro_tokens, self.macro_end_ids = config.macro_tokens, config.macro_end_ids

    def credit_options(self, groups: Sequence[Group]) -> dict[str, Any]:
        """With the macro actions."""
        return {**super().credit_options(groups), "macro_tokens": self.macro_tokens, "macro_end_ids": self.macro_end_ids}

    def log_ratio(self, credit: TokenCredit, log_probs: Tensor) -> Tensor:
        """That of the macro action, at each of its tokens, float64 Tensor[N]."""
        starts = _starts(credit, log_probs)
        return macro_sum(super().log_ratio(credit, log_probs), starts)[macro_index(starts)]

    def policy_losses(self, credit: TokenCredit, log_probs: Tensor) -> Tensor:
        """The macro action's loss at each of its tokens; only its first token has weight."""
        log_ratio = self.log_ratio(credit, log_probs)
        zeros, advantages = log_ratio.new_zeros(log_ratio.shape), credit.advantages.to(log_probs.device)
        config = self.config
        return clipped_policy_loss(log_ratio, zeros, advantages, config.clip, config.dual_clip, clip_high=config.clip_high)


def _starts(credit: TokenCredit, log_probs: Tensor) -> Tensor:
    if credit.macro_starts is None:
        raise ValueError("macro_starts must be given: the actions are macro actions")
    return credit.macro_starts.to(log_probs.device)


Config = MacroPPOConfig
create = MacroPPO
