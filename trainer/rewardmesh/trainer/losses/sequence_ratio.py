"""The clipped policy loss with one ratio per sequence.

RLOO: Ahmadian et al. 2024 (arXiv 2402.14740) treat a whole completion as one action: the log-ratio is the sum over its tokens, and the
gradient at the sampling policy is that of REINFORCE on the completion, without a length bias.
GSPO: Zheng et al. 2025 (arXiv 2507.18071), equations 5 and 7: the log-ratio is the mean over the tokens, so that the clip's interval
can be a few 1e-4 wide at any length.
Departure: the paper of RLOO does not clip; with one optimiser step per batch the ratio is 1 and nothing is clipped.
"""

import torch
from torch import Tensor

from rewardmesh.trainer.losses.ppo import clipped_policy_loss


def clipped_sequence_loss(
    log_ratio: Tensor, advantages: Tensor, clip: float, dual_clip: float | None = None, *, clip_high: float | None = None
) -> Tensor:
    """Loss per sequence, Tensor[S].

    `log_ratio` Tensor[S]: log pi - log pi_old in nats, summed (RLOO) or averaged (GSPO) over the sequence's completion tokens;
    `advantages` Tensor[S]; the clips as in `clipped_policy_loss`.
    """
    return clipped_policy_loss(log_ratio, torch.zeros_like(log_ratio), advantages, clip, dual_clip, clip_high=clip_high)
