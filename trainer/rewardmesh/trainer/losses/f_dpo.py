"""DPO under another divergence than the reverse KL.

Wang et al. 2023 (arXiv 2309.16240), equation 13: log sigmoid of beta (f'(u_w) - f'(u_l)), u = pi / pi_ref of the completion. f' is
log u for the reverse KL (DPO), -1 / u for the forward KL, log(2 u / (1 + u)) for Jensen-Shannon and (1 - u^-alpha) / alpha for the
alpha divergence, alpha in (0, 1), each up to a constant that falls out of the difference. Departures: soft labels, with which the
optimum is f'(pi / pi_ref) = (r - lambda) / beta; exponents are capped at 20, beyond which the gradient is 0.
"""

from typing import Literal

from torch import Tensor
from torch.nn.functional import softplus

from rewardmesh.trainer.losses.dpo import sigmoid_preference_loss

Divergence = Literal["reverse_kl", "forward_kl", "jensen_shannon", "alpha"]
EXPONENT_LIMIT = 20.0


def divergence_reward(log_ratio: Tensor, divergence: Divergence, alpha: float = 0.5) -> Tensor:
    """f'(u) of `log_ratio` = log u, up to a constant; any shape, rising in log u. `alpha` is only for the alpha divergence."""
    if divergence == "reverse_kl":
        return log_ratio
    if divergence == "jensen_shannon":
        return log_ratio - softplus(log_ratio)
    if divergence == "forward_kl":
        return -(-log_ratio).clamp(max=EXPONENT_LIMIT).exp()
    return -(-alpha * log_ratio).clamp(max=EXPONENT_LIMIT).expm1() / alpha


def divergence_preference_loss(
    log_ratio_first: Tensor, log_ratio_second: Tensor, p_first: Tensor, beta: float, divergence: Divergence, alpha: float = 0.5
) -> Tensor:
    """Loss per pair, Tensor[P].

    `log_ratio_first`, `log_ratio_second` Tensor[P]: sums over completion tokens of log pi - log pi_ref (nats);
    `p_first` Tensor[P] in [0, 1]: probability that first is the better one.
    """
    margin = divergence_reward(log_ratio_first, divergence, alpha) - divergence_reward(log_ratio_second, divergence, alpha)
    return sigmoid_preference_loss(margin, p_first, beta)
