"""The plain policy-gradient loss: -A log pi.

Williams 1992, "Simple statistical gradient-following algorithms for connectionist reinforcement learning"; as ReMax uses it (Li et al.
2023, arXiv 2310.10505). There is no ratio: its gradient is that of the expected reward only for samples of the policy that
is updated, that is for one optimiser step per batch.
"""

from torch import Tensor


def reinforce_loss(log_probs: Tensor, advantages: Tensor) -> Tensor:
    """Loss per token, Tensor[N]; `log_probs` Tensor[N] in nats with gradient, `advantages` Tensor[N] without. No mask."""
    return -advantages * log_probs
