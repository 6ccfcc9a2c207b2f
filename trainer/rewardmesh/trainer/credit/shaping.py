"""Dense rewards that leave the optimal policy where it is, and the dense reward a preference-tuned policy implies.

Potential-based shaping (Ng et al. 1999): gamma Phi(s_{t+1}) - Phi(s_t) with Phi = 0 at the end changes every return from a state by
-Phi of that state, whatever the policy. A score at the last token, shared out over the tokens with the sum kept, is such a shaping (Chan
et al. 2024, "Dense Reward for Free in Reinforcement Learning from Human Feedback", arXiv 2402.00782): Phi is what the tokens so far were
given. That is exact where a token's share depends on the tokens up to it alone; an attention map of the whole completion looks ahead, which
keeps every return but not the reward still to come, and so biases the later tokens a little (tests/trainer/test_shaping.py measures it).
The implicit token reward beta log(pi / pi_ref) of a policy trained by direct preference optimisation adds up to
beta log(pi(y) / pi_ref(y)), its reward of the sequence (Rafailov et al. 2024, arXiv 2404.12358).
"""

import torch
from torch import Tensor

from rewardmesh.trainer.credit.layout import TokenLayout


def shaping_rewards(potentials: Tensor, layout: TokenLayout, gamma: float = 1.0) -> Tensor:
    """float64[N]: gamma Phi(s_{t+1}) - Phi(s_t); its discounted sum over a sequence is -Phi(s_1).

    `potentials` Tensor[N]: Phi of the state before each token; after a sequence's last token it is 0.
    """
    layout.check(potentials, "potentials")
    following = torch.zeros_like(potentials, dtype=torch.float64)
    following[:-1] = potentials[1:].double()
    following[layout.offsets[1:] - 1] = 0
    return gamma * following - potentials.double()


def progress_potentials(token_rewards: Tensor, layout: TokenLayout) -> Tensor:
    """float64[N]: the sum of `token_rewards` Tensor[N] over the tokens before each one of its sequence, any sign.

    As a potential it pays the token rewards as they come and takes their sum off at the last token.
    """
    layout.check(token_rewards, "token_rewards")
    running = token_rewards.double().cumsum(0) - token_rewards.double()
    return running - running[layout.offsets[:-1]][layout.sequence_index]


def attention_potentials(scores: Tensor, attention: Tensor, layout: TokenLayout) -> Tensor:
    """float64[N]: the share of each of `scores` Tensor[S] that goes to the tokens before each one of its sequence.

    `attention` Tensor[N], at least 0: only its proportions within a sequence count; a sequence with nothing in it has potential 0, and
    so its score at the end. ValueError for a negative entry.
    """
    layout.check(attention, "attention")
    if bool((attention < 0).any()):
        raise ValueError("attention must not be negative: it says how a score is shared out")
    totals = layout.sum(attention)
    per_unit = torch.where(totals > 0, scores.double() / totals.where(totals > 0, torch.ones_like(totals)), torch.zeros_like(totals))
    return progress_potentials(attention.double() * per_unit[layout.sequence_index], layout)


def implicit_token_rewards(log_probs: Tensor, reference_log_probs: Tensor, beta: float) -> Tensor:
    """Tensor[N]: beta (log pi - log pi_ref) per token, pi trained by direct preference optimisation against pi_ref with `beta`."""
    return beta * (log_probs - reference_log_probs)
