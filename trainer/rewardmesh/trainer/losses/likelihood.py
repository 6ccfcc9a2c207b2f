"""Weighted maximum likelihood, the loss of everything that fine-tunes on its own selected or reweighted samples.

-w log pi(y | x), as in Peters and Schaal 2007, "Reinforcement Learning by Reward-weighted Regression". With samples y of pi_old and
w = exp(r / beta) its minimum over all policies is pi_old exp(r / beta) / Z; with w the probability of y being the best of n, it is the
best-of-n policy.
"""

from torch import Tensor


def weighted_likelihood_loss(log_probs: Tensor, weights: Tensor) -> Tensor:
    """Loss per sequence, Tensor[S]: -weights * log_probs.

    `log_probs` Tensor[S]: sums (or means) over completion tokens of log pi, nats; `weights` Tensor[S], without gradient, may be
    negative. No mask: what is absent must not be in.
    """
    return -weights * log_probs
