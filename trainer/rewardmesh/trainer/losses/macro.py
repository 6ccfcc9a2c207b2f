"""Macro actions: several tokens that are one action to the policy gradient.

Chai et al. 2024, "MA-RLHF" (arXiv 2410.02743), section 3: a macro action is a run of tokens; its probability is the product of theirs,
its reward the sum. Advantage, ratio and clip then work on macro actions with the losses they have for tokens.
"""

import torch
from torch import Tensor


def macro_index(starts: Tensor) -> Tensor:
    """LongTensor[N]: the macro action, of M, that each token belongs to.

    `starts` BoolTensor[N]: True at a macro action's first token, so at every sequence's first token. Sequences may lie end to end.
    """
    return starts.long().cumsum(0) - 1


def macro_sum(values: Tensor, starts: Tensor) -> Tensor:
    """Tensor[N] -> float64 Tensor[M]: the sum over each macro action's tokens, differentiable. `starts` as in `macro_index`."""
    total = torch.zeros(int(starts.sum()), dtype=torch.float64, device=values.device)
    return total.index_add(0, macro_index(starts), values.double())
