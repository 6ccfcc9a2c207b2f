"""The connectivity of a channel with several replicas: that of the best one."""

from collections.abc import Iterable

import grpc

_BEST_FIRST = (
    grpc.ChannelConnectivity.READY,
    grpc.ChannelConnectivity.CONNECTING,
    grpc.ChannelConnectivity.IDLE,
    grpc.ChannelConnectivity.TRANSIENT_FAILURE,
    grpc.ChannelConnectivity.SHUTDOWN,
)


def overall_state(states: Iterable[grpc.ChannelConnectivity]) -> grpc.ChannelConnectivity:
    """The best of the replicas' states; IDLE when there is none."""
    return min(states, key=_BEST_FIRST.index, default=grpc.ChannelConnectivity.IDLE)
