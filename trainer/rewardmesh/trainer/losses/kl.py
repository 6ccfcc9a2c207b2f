"""Per-token estimators of KL(pi || ref) from samples of pi, and the controller of its coefficient.

Schulman, "Approximating KL divergence" (joschu.net/blog/kl-approx.html, 2020). k1 in the reward gives the Gibbs optimum; k1 as a loss
has a zero-mean gradient and regularises nothing, k3 as a loss has the optimum of the reverse divergence: place them with care.
"""

from collections.abc import Callable, Mapping
from typing import Literal

from torch import Tensor

KLEstimator = Literal["k1", "k2", "k3"]


def k1(log_probs: Tensor, reference_log_probs: Tensor) -> Tensor:
    """log pi - log ref, Tensor[N]: unbiased, may be negative."""
    return log_probs - reference_log_probs


def k2(log_probs: Tensor, reference_log_probs: Tensor) -> Tensor:
    """k1 squared / 2, Tensor[N]: biased, never negative; its gradient on samples of pi is that of the KL."""
    return k1(log_probs, reference_log_probs).square() / 2


def k3(log_probs: Tensor, reference_log_probs: Tensor) -> Tensor:
    """exp(-k1) - 1 + k1, Tensor[N]: unbiased, never negative."""
    difference = k1(log_probs, reference_log_probs)
    return (-difference).expm1() + difference


KL_ESTIMATORS: Mapping[KLEstimator, Callable[[Tensor, Tensor], Tensor]] = {"k1": k1, "k2": k2, "k3": k3}
"""By name: each takes (log_probs, reference_log_probs), of tokens or of whole sequences, in nats."""


class AdaptiveKL:
    """Moves a KL coefficient towards a target KL per sequence: Ziegler et al. 2019 (arXiv 1909.08593), equations 2 and 3.

    coefficient *= 1 + clip(kl / target - 1, -.2, .2) * n / horizon, n rollouts per update, horizon in rollouts.
    """

    def __init__(self, coefficient: float, target: float, horizon: float) -> None:
        self.coefficient = coefficient
        self.target = target
        self.horizon = horizon

    def update(self, kl: float, rollouts: float) -> None:
        """`kl`: mean over `rollouts` rollouts of the sequence KL, in nats."""
        error = max(-0.2, min(0.2, kl / self.target - 1))
        self.coefficient *= 1 + error * rollouts / self.horizon
