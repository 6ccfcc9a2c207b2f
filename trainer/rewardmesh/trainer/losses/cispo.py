"""Clipped importance-sampling policy optimisation: clip the weight, keep every token's gradient.

MiniMax 2025, "MiniMax-M1" (arXiv 2506.13585), equations 4 and 5: -stop_gradient(min(r, cap)) A log pi, r = pi / pi_old per token.
Unlike PPO's clip, which drops the gradient of rare tokens that have moved, the cap only bounds how much they weigh.
Departure: only the upper bound, as in the paper's experiments; the log-ratio is clamped to +-20 before the exponential.
"""

from torch import Tensor

from rewardmesh.trainer.losses.ppo import LOG_RATIO_LIMIT


def capped_importance_loss(log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, cap: float) -> Tensor:
    """Loss per token, Tensor[N], from Tensor[N]s over completion tokens (nats); `cap` > 0 is the greatest weight of a token. No mask."""
    weight = (log_probs - old_log_probs).detach().clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp().clamp(max=cap)
    return -weight * advantages * log_probs
