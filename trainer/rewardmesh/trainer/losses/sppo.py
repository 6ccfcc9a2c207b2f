"""SPPO: regression of the log-ratio on the win probability.

Wu et al. 2024 (arXiv 2405.00675), equation 4.7: (log pi(y) - log pi_t(y) - eta (P(y beats pi_t) - 1/2))^2, with eta = 1 / beta; unpaired
and soft-labelled by nature. The hard pair form is the sum of two such terms with P of 1 and 0.
"""

from torch import Tensor


def self_play_loss(log_ratio: Tensor, win_probability: Tensor, beta: float) -> Tensor:
    """Loss per completion, Tensor[S].

    `log_ratio` Tensor[S]: sum over completion tokens of log pi less that of the anchor, pi_t or the reference (nats);
    `win_probability` Tensor[S] in [0, 1]: against the policy's own completions of the same prompt, .5 for as good as they.
    """
    return (log_ratio - (win_probability - 0.5) / beta).square()
