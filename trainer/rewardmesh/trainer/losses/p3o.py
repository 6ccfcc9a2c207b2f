"""Pairwise proximal policy optimisation: the policy gradient of a reward difference.

Wu et al. 2023 (arXiv 2310.00212). For two completions of one prompt the pairwise policy gradient is
E[(R_1 - R_2) grad(log pi_1 - log pi_2)] / 2: it sees rewards only as differences, so that rewards that differ by a function of the
prompt are one and the same to it. Away from the sampling policy it is weighted by rho_1 rho_2, rho_i = pi_i / pi_old,i of the whole
completion, and clipped either per completion ("separate", the paper's V1) or on the log-ratio of the pair ("joint", its V2).
At the sampling policy the mean over all pairs of a group has the gradient of REINFORCE with the leave-one-out baseline.
Departure: the log-ratios are clamped to +-20 before an exponential.
"""

import torch
from torch import Tensor

from rewardmesh.trainer.losses.ppo import LOG_RATIO_LIMIT


def separate_pairwise_loss(log_ratio_first: Tensor, log_ratio_second: Tensor, difference: Tensor, clip: float) -> Tensor:
    """Loss per pair, Tensor[P], each completion's ratio clipped to 1 +- `clip` by itself.

    `log_ratio_first`, `log_ratio_second` Tensor[P]: log rho in nats, summed over completion tokens; `difference` Tensor[P]:
    R_first - R_second. No mask: a pair with an absent reward is no pair.
    """
    first, second = _ratio(log_ratio_first), _ratio(log_ratio_second)
    return _clipped(difference * second.detach(), first, clip) + _clipped(-difference * first.detach(), second, clip)


def joint_pairwise_loss(log_ratio_first: Tensor, log_ratio_second: Tensor, difference: Tensor, clip: float) -> Tensor:
    """Loss per pair, Tensor[P], the pair's log-ratio difference clipped to +- `clip`; arguments as in `separate_pairwise_loss`."""
    coefficient = difference * _ratio(log_ratio_first).detach() * _ratio(log_ratio_second).detach()
    together = log_ratio_first - log_ratio_second
    return torch.maximum(-coefficient * together, -coefficient * together.clamp(-clip, clip)) / 2


def _clipped(coefficient: Tensor, ratio: Tensor, clip: float) -> Tensor:
    return torch.maximum(-coefficient * ratio, -coefficient * ratio.clamp(1 - clip, 1 + clip)) / 2


def _ratio(log_ratio: Tensor) -> Tensor:
    return log_ratio.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
