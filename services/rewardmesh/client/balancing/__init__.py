"""Channels of our own over the replicas of one service: who gets a call, when it is tried again, and when elsewhere at once.

    targets.py    which addresses a target stands for, found again every few seconds
    replica.py    what is known of one replica: calls in flight, the load it reported, how often it failed in a row
    pool.py       the replicas: two are drawn and the less loaded one taken; those that only fail are left out for a while
    budget.py     one budget of extra attempts for retries, hedges and streams that are taken up again
    latency.py    how long calls of a method take: when a hedge is due
    race.py       one call: its attempts, and what comes after each
    blocking*.py, aio*.py   the same over grpc and over grpc.aio

gRPC's own `round_robin` does not know load, its `hedgingPolicy` does nothing in Python, and its retries go by a budget of their own: each
replica therefore has a channel with none of these, and what remains of gRPC there is connecting, health checking and keepalive.
"""

from rewardmesh.client.balancing.aio_channel import AioBalancedChannel
from rewardmesh.client.balancing.blocking_channel import BalancedChannel
from rewardmesh.client.balancing.options import MAX_MESSAGE_BYTES, ChannelOptions, service_config
from rewardmesh.client.balancing.replica import ReplicaStatistics
from rewardmesh.client.balancing.statistics import ChannelStatistics
from rewardmesh.client.balancing.targets import resolve_dns

__all__ = [
    "MAX_MESSAGE_BYTES",
    "AioBalancedChannel",
    "BalancedChannel",
    "ChannelOptions",
    "ChannelStatistics",
    "ReplicaStatistics",
    "resolve_dns",
    "service_config",
]
