"""What a channel has done: counts a caller can read."""

from collections.abc import Mapping
from dataclasses import dataclass

from rewardmesh.client.balancing.replica import ReplicaStatistics


@dataclass(frozen=True)
class ChannelStatistics:
    """Counts of a channel since it was opened, replicas that have left included in the sums.

    calls: what callers asked for: unary calls and opened streams (one that is taken up again counts as a retry).
    attempts: what was sent for it; `attempts / calls` is the amplification. hedge_wins: hedges that answered first.
    budget_tokens: extra attempts that the budget would allow now.
    replicas: by address, those the target stands for now.
    """

    calls: int
    attempts: int
    retries: int
    hedges: int
    hedge_wins: int
    ejections: int
    budget_tokens: float
    replicas: Mapping[str, ReplicaStatistics]
