"""SePPO: an earlier checkpoint's samples in the losing place, flipped where they are likely to be good.

Zhang et al. 2024 (arXiv 2410.05255), equation 12: -log sigmoid(beta (rho_w - s rho_c)), w the winning completion (the anchor), c a sample
of the checkpoint that is also the reference. s = 1 where the policy has come to like the anchor at least as much as the checkpoint does,
so that the checkpoint's sample is taken for a loser, else -1. Departures: log-ratios of completions instead of denoising errors; soft
labels say which of the two is the anchor.
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def semi_policy_preference_loss(log_ratio_first: Tensor, log_ratio_second: Tensor, p_first: Tensor, beta: float) -> Tensor:
    """Loss per pair, Tensor[P]; no gradient flows through the flips.

    `log_ratio_first`, `log_ratio_second` Tensor[P]: sums over completion tokens of log pi - log pi_checkpoint (nats);
    `p_first` Tensor[P] in [0, 1]: probability that first is the better one.
    """
    won = log_ratio_first - _side(log_ratio_first) * log_ratio_second
    lost = log_ratio_second - _side(log_ratio_second) * log_ratio_first
    return -p_first * logsigmoid(beta * won) - (1 - p_first) * logsigmoid(beta * lost)


def _side(anchor: Tensor) -> Tensor:
    return torch.where(anchor.detach() >= 0, 1.0, -1.0).to(anchor.dtype)
