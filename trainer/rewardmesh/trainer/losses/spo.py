"""SPO: each completion's share of wins against the policy's other completions, as the reward of a policy gradient.

Swamy et al. 2024 (arXiv 2401.04056), algorithm 1: the reward of y is the mean over own samples y' of P(y beats y'). The policy gradient
here is the clipped one of whole completions, with the mean of a win rate, 1/2, for a baseline: -min(r A, clip(r, 1 +- c) A),
A = win rate - 1/2, r = pi(y) / pi_t(y).
"""

from torch import Tensor

from rewardmesh.trainer.losses.sequence_ratio import clipped_sequence_loss


def self_play_policy_loss(log_ratio: Tensor, win_rate: Tensor, clip: float) -> Tensor:
    """Loss per completion, Tensor[S].

    `log_ratio` Tensor[S]: sum over completion tokens of log pi - log pi_t, pi_t the policy that sampled (nats);
    `win_rate` Tensor[S] in [0, 1].
    """
    return clipped_sequence_loss(log_ratio, win_rate - 0.5, clip)
