"""Advantage-induced policy alignment: a regression of the log-ratio on the advantage.

Zhu et al. 2023 (arXiv 2306.02231): (log pi - log pi_init - A / lambda)^2. The target is the policy
pi_init exp(A / lambda) with its normaliser taken for 1; the loss needs no ratio to the sampling policy and no clip.
"""

from torch import Tensor


def squared_advantage_loss(log_probs: Tensor, reference_log_probs: Tensor, advantages: Tensor, temperature: float) -> Tensor:
    """Loss per token, Tensor[N], from Tensor[N]s over completion tokens (nats); `temperature` > 0 is lambda. No mask."""
    return (log_probs - reference_log_probs - advantages / temperature).square()
