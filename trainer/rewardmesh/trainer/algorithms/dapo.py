"""DAPO: GRPO for long completions.

Yu et al. 2025 (arXiv 2503.14476): a wider upper clip, the mean over all tokens, a penalty that rises towards the length limit, groups of
equal scores left out, no KL. Departure: groups left out are counted here and not replaced; drawing further prompts until enough groups
vary is the `dynamic` sampler's part. A truncated completion can be kept out of the loss instead of penalised (mask_truncated).
"""

from rewardmesh.trainer.algorithms._policy_gradient import BaselineOption, DropZeroVariance, PolicyGradient, PolicyGradientConfig
from rewardmesh.trainer.algorithms._rewards import ClipHigh, OverlongBuffer


class DAPOConfig(PolicyGradientConfig):
    """Options of DAPO; set max_tokens to sampling.max_tokens, and the buffer to about a fifth of it."""

    baseline: BaselineOption = "group_standard"
    clip_high: ClipHigh = 0.28
    overlong_buffer: OverlongBuffer = 51
    drop_zero_variance: DropZeroVariance = True


class DAPO(PolicyGradient):
    """Standardised advantages of the groups that vary, clip-higher, token mean."""

    name = "dapo"


Config = DAPOConfig
create = DAPO
