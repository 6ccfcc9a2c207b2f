"""GPO: any convex function in place of DPO's logistic one.

Tang et al. 2024, "Generalized Preference Optimization" (arXiv 2402.05749), equation 4 and table 1: f(beta h), f one of log(1 + e^-x)
(DPO), max(0, 1 - x) (SLiC), (1 - x)^2 (IPO up to scale), e^-x, max(0, 1 - x)^2, 1 / (1 + e^x)^2 (Savage, not convex).
Departures: soft labels, p f(beta h) + (1 - p) f(-beta h); e^-x stops rising, and loses its gradient, at x = -20.
"""

from collections.abc import Callable
from typing import Literal

from torch import Tensor
from torch.nn.functional import softplus

PreferenceFunction = Literal["logistic", "hinge", "squared", "exponential", "truncated_quadratic", "savage"]
EXPONENT_LIMIT = 20.0


def generalised_preference_loss(margin: Tensor, p_first: Tensor, beta: float, function: PreferenceFunction) -> Tensor:
    """Loss per pair, Tensor[P]; `margin` and `p_first` Tensor[P] as in `sigmoid_preference_loss`."""
    f = _FUNCTIONS[function]
    return p_first * f(beta * margin) + (1 - p_first) * f(-beta * margin)


_FUNCTIONS: dict[PreferenceFunction, Callable[[Tensor], Tensor]] = {
    "logistic": lambda x: softplus(-x),
    "hinge": lambda x: (1 - x).relu(),
    "squared": lambda x: (1 - x).square(),
    "exponential": lambda x: (-x).clamp(max=EXPONENT_LIMIT).exp(),
    "truncated_quadratic": lambda x: (1 - x).relu().square(),
    "savage": lambda x: (-x).sigmoid().square(),
}
