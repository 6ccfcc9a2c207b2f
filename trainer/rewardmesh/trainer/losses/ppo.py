"""The clipped policy and value losses of PPO.

Policy: Schulman et al. 2017 (arXiv 1707.06347), equation 7, negated: -min(r A, clip(r, 1 - eps, 1 + eps) A), r = pi / pi_old per token.
Two bounds (clip-higher): Yu et al. 2025 (arXiv 2503.14476), equation 10.
Dual clip: Ye et al. 2020 (arXiv 1912.09729), equation 5: for A < 0 the loss is at most -c A.
Value: max((V - R)^2, (clip(V, V_old +- eps_v) - R)^2) / 2.
Departure: the log-ratio is clamped to +-20 so that one broken token cannot make the ratio infinite.
"""

import torch
from torch import Tensor

LOG_RATIO_LIMIT = 20.0


def clipped_policy_loss(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    clip: float,
    dual_clip: float | None = None,
    *,
    clip_high: float | None = None,
) -> Tensor:
    """Loss per token, Tensor[N], from Tensor[N]s over completion tokens (nats); no mask: every entry counts.

    The ratio is clipped to [1 - clip, 1 + clip_high]; `clip_high` None means `clip`. `dual_clip` > 1 bounds the loss where A < 0.
    """
    ratio = (log_probs - old_log_probs).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
    kept = ratio.clamp(1 - clip, 1 + (clip if clip_high is None else clip_high))
    loss = torch.maximum(-ratio * advantages, -kept * advantages)
    if dual_clip is not None:
        loss = torch.where(advantages < 0, torch.minimum(loss, -dual_clip * advantages), loss)
    return loss


def clipped_value_loss(values: Tensor, old_values: Tensor, returns: Tensor, clip: float | None) -> Tensor:
    """Loss per token, Tensor[N]; `clip` bounds how far a value may move from its old one before the gradient stops (None: never)."""
    plain = (values - returns).square()
    if clip is None:
        return plain / 2
    kept = old_values + (values - old_values).clamp(-clip, clip)
    return torch.maximum(plain, (kept - returns).square()) / 2
