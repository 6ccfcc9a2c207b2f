"""Where macro actions begin: runs of a fixed number of tokens, or segments that end at given tokens.

Chai et al. 2024, "MA-RLHF" (arXiv 2410.02743), section 3: the n-gram and the (token-based) parsing termination.
"""

from collections.abc import Collection, Sequence

import numpy as np
import torch
from torch import Tensor

from rewardmesh.trainer.samples import Rollout


def macro_starts(rollouts: Sequence[Rollout], tokens: int, end_ids: Collection[int] = ()) -> Tensor:
    """BoolTensor[N] over the completion tokens of `rollouts`: True at the first token of a macro action.

    A macro action has at most `tokens` tokens and ends early after a token of `end_ids` (say of full stops and line breaks); none
    crosses from one completion into the next.
    """
    ends = np.array(sorted(end_ids), dtype=np.int32)
    starts: list[bool] = []
    for rollout in rollouts:
        length = tokens
        for ended in [True, *np.isin(rollout.completion_ids, ends)[:-1]]:
            begins = bool(ended) or length == tokens
            length = 1 if begins else length + 1
            starts.append(begins)
    return torch.tensor(starts, dtype=torch.bool)
