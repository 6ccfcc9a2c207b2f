"""From the log-probabilities that vLLM lists for each position to `TokenStatistics`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch

from rewardmesh.engine.log_probs import Extra, TokenStatistics


def listed(top_k: int, extras: Collection[Extra]) -> int:
    """How many of the likeliest tokens must be listed at each position."""
    return max(top_k, 2 if "margin" in extras else 0)


def statistics_from(positions: Sequence[tuple[float, Mapping[int, float]]], *, extras: Collection[Extra], top_k: int) -> TokenStatistics:
    """Statistics of one completion.

    Args:
        positions: for each token its log-probability, and that of at least the `listed` likeliest tokens by id (others do no harm as
            long as they are less likely).
    """
    keep = listed(top_k, extras)
    top_ids, top = torch.empty(len(positions), keep, dtype=torch.int64), torch.empty(len(positions), keep)
    if keep:
        for row, (_, found) in enumerate(positions):
            best = sorted(found.items(), key=lambda item: -item[1])[:keep]
            if len(best) < keep:
                raise ValueError(f"{len(best)} likeliest tokens are listed, {keep} were asked for")
            top_ids[row] = torch.tensor([token for token, _ in best])
            top[row] = torch.tensor([log_prob for _, log_prob in best])
    return TokenStatistics(
        log_probs=torch.tensor([log_prob for log_prob, _ in positions], dtype=torch.float32),
        margin=top[:, 0] - top[:, 1] if "margin" in extras else None,
        top_ids=top_ids[:, :top_k] if top_k else None,
        top_log_probs=top[:, :top_k] if top_k else None,
    )
