"""SimPO: the mean log-probability of a completion as its reward, no reference.

Meng et al. 2024 (arXiv 2405.14734), equation 6: -log sigmoid(beta (l_w / n_w - l_l / n_l) - gamma). Departure: soft labels,
-p log sigmoid(beta h - gamma) - (1 - p) log sigmoid(-beta h - gamma). The target margin gamma is asked of whichever side the label
takes for the better one, so that swapping a pair changes nothing; smoothing that flips the sign of beta h - gamma as a whole would
hand gamma to the first completion in both cases.
"""

from torch import Tensor
from torch.nn.functional import logsigmoid


def simple_preference_loss(margin: Tensor, p_first: Tensor, beta: float, gamma: float) -> Tensor:
    """Loss per pair, Tensor[P].

    `margin` Tensor[P]: difference of the mean log-probabilities of a completion token, first less second (nats per token);
    `p_first` Tensor[P] in [0, 1]: probability that first is the better one; `gamma` >= 0 on the scale of beta * margin.
    """
    return -p_first * logsigmoid(beta * margin - gamma) - (1 - p_first) * logsigmoid(-beta * margin - gamma)
