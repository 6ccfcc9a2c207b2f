"""VPO: DPO regularised by the value of its own implicit reward.

Cen et al. 2024 (arXiv 2405.19320), equations 13 and 16: with rewards shifted to mean 0 over calibration samples, the best value that the
implicit reward promises is -beta E_cal[log pi - log pi_ref]. Optimism (online) wants it high, pessimism (offline) low:
DPO loss +- alpha beta (log pi - log pi_ref)(y_cal). Departure: soft labels.
"""

from torch import Tensor

from rewardmesh.trainer.losses.dpo import sigmoid_preference_loss


def value_incentivised_preference_loss(
    margin: Tensor, calibration_log_ratio: Tensor, p_first: Tensor, beta: float, alpha: float, *, optimistic: bool = True
) -> Tensor:
    """Loss per pair, Tensor[P].

    `margin`, `p_first` Tensor[P] as in `sigmoid_preference_loss`; `calibration_log_ratio` Tensor[P]: log pi - log pi_ref (nats) of the
    pair's calibration sample, or an average of its two.
    """
    incentive = alpha * beta * calibration_log_ratio
    return sigmoid_preference_loss(margin, p_first, beta) + (incentive if optimistic else -incentive)
