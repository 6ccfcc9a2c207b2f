"""Which rollouts of a group stand for the best of n, and how likely the best of n is to be each of them. Ties are shared, never first wins.

The best of n draws from a policy p is the policy p_n(y) = p(y) (F(y)^n - F'(y)^n) / (F(y) - F'(y)), F(y) the probability of a reward at
most r(y) and F' of one below it (Sessa et al. 2024, arXiv 2407.14622, section 3). Where rewards are continuous the fraction is n F^(n-1).
"""

from math import comb

import numpy as np
import numpy.typing as npt

DoubleArray = npt.NDArray[np.float64]

LOG_RATIO_RANGE = 40.0
"""Rollouts less likely than this (nats, against the likeliest) under the anchor keep this weight: a quantile of 0 has no logarithm."""


def best_of_n_weights(rewards: DoubleArray, n: int) -> DoubleArray:
    """float64[k], sum 1: the probability that each of k rollouts is the best of n of them drawn without replacement.

    Averages over all n-subsets, so that weighted means are unbiased for the best of n; n = k puts all weight on the best.
    `rewards` float64[k], all present. ValueError unless 1 <= n <= k.
    """
    count = len(rewards)
    if not 1 <= n <= count:
        raise ValueError(f"n must lie in 1..{count}, the number of rollouts with a reward, got {n}")
    weights = np.empty(count)
    for level in np.unique(rewards):
        tied = rewards == level
        below, up_to = int((rewards < level).sum()), int((rewards <= level).sum())
        weights[tied] = (comb(up_to, n) - comb(below, n)) / comb(count, n) / tied.sum()
    return weights


def best_of_n_log_ratio(probabilities: DoubleArray, rewards: DoubleArray, n: int) -> DoubleArray:
    """float64[k]: log p_n - log p of each of k outcomes with `probabilities` float64[k] (sum 1) and `rewards` float64[k].

    Finite where the outcome itself or a worse one has weight; the fraction is summed as a polynomial, so that rare outcomes lose no digits.
    """
    below = (probabilities[None, :] * (rewards[None, :] < rewards[:, None])).sum(axis=1)
    up_to = (probabilities[None, :] * (rewards[None, :] <= rewards[:, None])).sum(axis=1)
    powers = np.arange(n)
    terms = up_to[:, None] ** (n - 1 - powers) * below[:, None] ** powers
    return np.asarray(np.log(terms.sum(axis=1)), dtype=np.float64)


def top_weights(rewards: DoubleArray, keep: int) -> DoubleArray:
    """float64[k], sum `keep`: 1 for each of the `keep` greatest rewards, the ones tied at the boundary sharing what is left for them."""
    if not 1 <= keep <= len(rewards):
        raise ValueError(f"keep must lie in 1..{len(rewards)}, got {keep}")
    boundary = np.sort(rewards)[::-1][keep - 1]
    above, tied = rewards > boundary, rewards == boundary
    return np.asarray(np.where(tied, (keep - above.sum()) / tied.sum(), above), dtype=np.float64)


def exponential_weights(rewards: DoubleArray, beta: float) -> DoubleArray:
    """float64[k], sum 1: exp(reward / beta), normalised; never overflows."""
    weights = np.exp((rewards - rewards.max()) / beta)
    return np.asarray(weights / weights.sum(), dtype=np.float64)


def jeffreys_weights(
    rewards: DoubleArray,
    log_probs: DoubleArray,
    anchor_log_probs: DoubleArray,
    *,
    n: int,
    forward_share: float,
    probabilities: DoubleArray | None = None,
) -> DoubleArray:
    """float64[k]: weights w with -mean(w log pi) a surrogate of forward_share KL(p_n || pi) + (1 - forward_share) KL(pi || p_n).

    k rollouts of the policy with sums `log_probs` (nats, at sampling) and `anchor_log_probs` under p, the policy whose best of n is the
    target. p is estimated by the rollouts, reweighted by p / pi; give `probabilities` float64[k] of the policy where they are known
    (then each rollout is one outcome, -sum(probabilities w log pi) is the surrogate, and all is exact). The forward part has weights of
    mean 1; the backward part is log p_n - log pi with its mean as baseline (over the other rollouts, where p is estimated).
    """
    count = len(rewards)
    policy = np.full(count, 1 / count) if probabilities is None else probabilities
    ratio = anchor_log_probs - log_probs
    anchor = policy * np.exp((ratio - ratio.max()).clip(min=-LOG_RATIO_RANGE))
    anchor /= anchor.sum()
    to_best = best_of_n_log_ratio(anchor, rewards, n)
    forward = anchor * np.exp(to_best) / policy
    gain = to_best + ratio
    advantage = gain - policy @ gain
    if probabilities is None:
        advantage *= count / (count - 1)
    return np.asarray(forward_share * forward + (1 - forward_share) * advantage, dtype=np.float64)
