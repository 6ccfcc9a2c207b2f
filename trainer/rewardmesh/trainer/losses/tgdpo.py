"""TGDPO: DPO in which each token strays from the reference by its own reward.

Zhu et al. 2025 (arXiv 2506.14574), equation 15: -log sigmoid(sum_t beta (1 + alpha r_t) rho_t of the better completion less
sum_t beta (1 - alpha r_t) rho_t of the worse), rho_t a token's log-ratio to the reference, r_t its reward, by default that of an
earlier DPO policy, beta (log pi_dpo - log pi_ref). Departure: soft labels, the two ways round weighted by their probabilities.
"""

from torch import Tensor
from torch.nn.functional import logsigmoid


def token_guidance(token_rewards: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """(1 + alpha r, 1 - alpha r), Tensor[N] each, without gradient: factors of a token in a better and in a worse completion."""
    pull = alpha * token_rewards.detach()
    return 1 + pull, 1 - pull


def token_guided_preference_loss(
    better_first: Tensor, worse_first: Tensor, better_second: Tensor, worse_second: Tensor, p_first: Tensor, beta: float
) -> Tensor:
    """Loss per pair, Tensor[P].

    `better_first` Tensor[P]: sum over the tokens of first of (1 + alpha r_t) rho_t (nats), `worse_first` with (1 - alpha r_t), both again
    for second; `p_first` Tensor[P] in [0, 1]: probability that first is the better one.
    """
    won, lost = better_first - worse_second, better_second - worse_first
    return -p_first * logsigmoid(beta * won) - (1 - p_first) * logsigmoid(beta * lost)
