"""Direct preference optimisation with soft labels.

Rafailov et al. 2023 (arXiv 2305.18290), equation 7, with the label taken as a probability instead of a choice (as conservative DPO
does with a constant): -p log sigmoid(beta h) - (1 - p) log sigmoid(-beta h). Its minimum over h is at sigmoid(beta h) = p, so that
calibrated labels keep the KL anchor; p in {0, 1} gives the paper's loss, which has no minimum.
Conservative DPO (Mitchell 2023, "A note on DPO with noisy preferences") is this loss on `smoothed_labels`.
"""

from torch import Tensor
from torch.nn.functional import logsigmoid


def sigmoid_preference_loss(margin: Tensor, p_first: Tensor, beta: float) -> Tensor:
    """Loss per pair, Tensor[P].

    `margin` Tensor[P]: h = rho_first - rho_second, rho = sum over completion tokens of log pi - log pi_ref (nats);
    `p_first` Tensor[P] in [0, 1]: probability that first is the better one. No mask: a pair without a label is no pair.
    """
    return -p_first * logsigmoid(beta * margin) - (1 - p_first) * logsigmoid(-beta * margin)


def smoothed_labels(p_first: Tensor, label_smoothing: float) -> Tensor:
    """Labels of which a share `label_smoothing` in [0, .5) is taken to be wrong: (1 - e) p + e (1 - p), Tensor[P]; .5 stays .5."""
    return p_first + label_smoothing * (1 - 2 * p_first)
