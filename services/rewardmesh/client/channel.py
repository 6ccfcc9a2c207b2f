"""Channels that spread calls over replicas by load, leave out those that fail, and retry and hedge within one budget.

See `rewardmesh.client.balancing` for how, and docs/client.md for how to use and set it.
"""

from rewardmesh.client.balancing import MAX_MESSAGE_BYTES, AioBalancedChannel, BalancedChannel, ChannelOptions, service_config

__all__ = ["MAX_MESSAGE_BYTES", "ChannelOptions", "open_aio_channel", "open_channel", "service_config"]


def open_channel(target: str, options: ChannelOptions | None = None) -> BalancedChannel:
    """Open a blocking channel; target is "host:port", "host:port,host:port", "dns:///scorer:50051" or another gRPC name."""
    return BalancedChannel(target, options)


def open_aio_channel(target: str, options: ChannelOptions | None = None) -> AioBalancedChannel:
    """The same for asyncio; call it inside the running event loop that will use it."""
    return AioBalancedChannel(target, options)
