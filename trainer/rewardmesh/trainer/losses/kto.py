"""KTO: unpaired completions, each only desirable or not.

Ethayarajh et al. 2024 (arXiv 2402.01306), equation 8: w_d (1 - sigmoid(beta (rho - z))) for a desirable completion and
w_u (1 - sigmoid(beta (z - rho))) for an undesirable one; z is the KL to the reference, at least 0, without gradient. Departure: soft
desirability d, the two terms weighted by d and 1 - d. With equal weights a completion of d = .5 teaches nothing, as it should.
"""

from torch import Tensor


def kahneman_tversky_loss(
    log_ratio: Tensor, desirability: Tensor, kl: float, beta: float, desirable_weight: float = 1.0, undesirable_weight: float = 1.0
) -> Tensor:
    """Loss per completion, Tensor[S].

    `log_ratio` Tensor[S]: rho, sum over completion tokens of log pi - log pi_ref (nats); `desirability` Tensor[S] in [0, 1]: probability
    that the completion is a desirable one; `kl`: z in nats, one for the whole step, any sign (negative is taken for 0).
    """
    surplus = beta * (log_ratio - max(kl, 0.0))
    return desirable_weight * desirability * (-surplus).sigmoid() + undesirable_weight * (1 - desirability) * surplus.sigmoid()
