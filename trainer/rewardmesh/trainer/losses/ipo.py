"""Identity preference optimisation with soft labels.

Azar et al. 2023 (arXiv 2310.12036), equation 17, averaged over the label: p (h - 1/2beta)^2 + (1 - p) (h + 1/2beta)^2, with the
minimum at h = (2p - 1) / 2beta. On pairs from the current policy its fixed point is the regularised Nash policy
pi ~ pi_ref exp(P(. beats pi) / beta) (Calandriello et al. 2024, arXiv 2403.08635).
"""

from torch import Tensor


def identity_preference_loss(margin: Tensor, p_first: Tensor, beta: float) -> Tensor:
    """Loss per pair, Tensor[P]; `margin` and `p_first` as in `sigmoid_preference_loss` (or a margin of per-token means)."""
    target = 1 / (2 * beta)
    return p_first * (margin - target).square() + (1 - p_first) * (margin + target).square()
