"""Correction for completions that were sampled from not quite the policy that is trained.

A generator in lower precision, with other kernels, or a version behind samples from pi_sampler, while the ratio of PPO compares with
pi_old, the trainer's own probabilities before the update. Each token's policy loss is multiplied by f(pi_old / pi_sampler).
token truncate: min(w, high) (truncated importance sampling, Yao et al. 2025, "Your efficient RL framework secretly brings you
off-policy RL training"); token mask: 0 outside [low, high] (IcePop, Ling team 2025, arXiv 2510.18855); sequence: the same on the ratio
of the whole completion, a product over its tokens. Masked tokens still count in the normaliser.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from rewardmesh.trainer.credit.layout import TokenLayout
from rewardmesh.trainer.losses.ppo import LOG_RATIO_LIMIT

ImportanceLevel = Literal["token", "sequence"]
ImportanceBound = Literal["truncate", "mask"]


@dataclass(frozen=True)
class ImportanceCorrection:
    """`truncate`: weights are clipped to [low, high]; `mask`: weights outside are 0."""

    level: ImportanceLevel
    bound: ImportanceBound
    low: float
    high: float


def importance_weights(old_log_probs: Tensor, sampling_log_probs: Tensor, layout: TokenLayout, correction: ImportanceCorrection) -> Tensor:
    """float64[N]: what each token's policy loss is multiplied by.

    `old_log_probs` Tensor[N] of the trainer before the update, `sampling_log_probs` Tensor[N] of the generator, in nats, completion
    tokens in `layout`. The log-ratio is clamped to +-20.
    """
    log_ratio = old_log_probs.double() - sampling_log_probs.double()
    if correction.level == "sequence":
        log_ratio = layout.sum(log_ratio)[layout.sequence_index.to(log_ratio.device)]
    ratio = log_ratio.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
    if correction.bound == "truncate":
        return ratio.clamp(correction.low, correction.high)
    return torch.where((ratio >= correction.low) & (ratio <= correction.high), ratio, torch.zeros_like(ratio))
