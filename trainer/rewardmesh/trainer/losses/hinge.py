"""The hinge (SLiC) preference loss with soft labels.

Zhao et al. 2023 (arXiv 2305.10425), equation 3, on log-ratios to the reference as in Liu et al. 2023 (arXiv 2309.06657), with margin 1
and no regularisation term (the reference is in the ratio): p relu(1 - beta h) + (1 - p) relu(1 + beta h).
"""

from torch import Tensor


def hinge_preference_loss(margin: Tensor, p_first: Tensor, beta: float) -> Tensor:
    """Loss per pair, Tensor[P]; `margin` and `p_first` as in `sigmoid_preference_loss`."""
    return p_first * (1 - beta * margin).relu() + (1 - p_first) * (1 + beta * margin).relu()
