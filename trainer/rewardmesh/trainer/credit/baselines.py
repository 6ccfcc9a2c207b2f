"""Baselines over a group: what a completion's return is compared with, so that the gradient has less variance.

Each takes the returns Tensor[n] of the scored samples of one prompt and gives their advantages Tensor[n]; an absence is no entry.
leave_one_out: Kool et al. 2019 and RLOO (Ahmadian et al. 2024, arXiv 2402.14740): R_i - mean of the others, unbiased.
group_mean: Dr. GRPO (Liu et al. 2025, arXiv 2503.20783): R_i - mean, which is leave_one_out times (n - 1) / n.
group_standard: GRPO (Shao et al. 2024, arXiv 2402.03300): that over the standard deviation, so that every prompt weighs alike; the
optimum is then no longer that of the expected reward.
"""

from typing import Literal

from torch import Tensor

Baseline = Literal["none", "leave_one_out", "group_mean", "group_standard", "greedy", "win_probability"]
STANDARD_EPSILON = 1e-4

NEEDS_COMPANY: tuple[Baseline, ...] = ("leave_one_out", "group_mean", "group_standard", "win_probability")
"""Baselines that say nothing about a group of one."""


def leave_one_out(returns: Tensor) -> Tensor:
    """R_i - mean over j != i of R_j; Tensor[n], n >= 2."""
    count = returns.numel()
    return (returns - returns.mean()) * (count / (count - 1))


def group_mean(returns: Tensor) -> Tensor:
    """R_i - mean of R; Tensor[n]."""
    return returns - returns.mean()


def group_standard(returns: Tensor, epsilon: float = STANDARD_EPSILON) -> Tensor:
    """(R_i - mean) / (s + epsilon), s the unbiased standard deviation; Tensor[n], n >= 2. Zeros when nothing varies."""
    return (returns - returns.mean()) / (returns.std(correction=1) + epsilon)


def baseline_advantages(baseline: Baseline, returns: Tensor, anchor: float = 0.0) -> Tensor:
    """Advantages Tensor[n] of one group's returns Tensor[n] under the named baseline.

    `anchor` is the greedy rollout's score for "greedy". "win_probability": the returns are mean win probabilities over the group and
    a rollout as good as the others has 1/2.
    """
    if baseline == "leave_one_out":
        return leave_one_out(returns)
    if baseline == "group_mean":
        return group_mean(returns)
    if baseline == "group_standard":
        return group_standard(returns)
    if baseline == "greedy":
        return returns - anchor
    if baseline == "win_probability":
        return returns - 0.5
    return returns
