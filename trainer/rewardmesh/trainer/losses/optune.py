"""OPTune's weighted DPO: pairs weighted by their reward gap.

Chen et al. 2024 (arXiv 2406.07657), section 3.2: the DPO loss of a pair times sigmoid(beta_2 (r_w - r_l)). Departure: soft labels;
each way round counts with its probability and its own weight, -p w(g) log sigmoid(beta h) - (1 - p) w(-g) log sigmoid(-beta h) with
w = sigmoid(beta_2 g), so that swapping a pair changes nothing and p in {0, 1} is the paper's.
"""

from torch import Tensor
from torch.nn.functional import logsigmoid


def gap_weighted_preference_loss(margin: Tensor, reward_gap: Tensor, p_first: Tensor, beta: float, gap_scale: float) -> Tensor:
    """Loss per pair, Tensor[P].

    `margin`, `p_first` Tensor[P] as in `sigmoid_preference_loss`; `reward_gap` Tensor[P]: reward of first less that of second;
    `gap_scale` > 0: the paper's beta_2, per unit of reward.
    """
    won = p_first * (gap_scale * reward_gap).sigmoid()
    lost = (1 - p_first) * (-gap_scale * reward_gap).sigmoid()
    return -won * logsigmoid(beta * margin) - lost * logsigmoid(-beta * margin)
