"""Channels that spread calls over replicas, skip those that are not serving, and retry within a budget.

`round_robin`, because `pick_first` sends every call to one replica. Hedging is not here: `hedgingPolicy` in a service config silently does
nothing in gRPC core. gRPC commits a call (and so never retries it) once its messages outgrow the retry buffer, by default 256 KiB, which a
batch of samples passes easily: the buffer is therefore as large as the largest message.
"""

import ipaddress
import json
from dataclasses import dataclass

import grpc
from grpc import aio

MAX_MESSAGE_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True)
class ChannelOptions:
    """How to connect and retry."""

    health_check: bool = True
    """Whether to send calls only to replicas whose grpc.health.v1 (where they offer it) says SERVING."""
    health_service: str = ""
    """Name whose health counts; empty for the whole server."""
    max_message_bytes: int = MAX_MESSAGE_BYTES
    """Largest message in either direction."""
    max_attempts: int = 4
    """Attempts a call, the first included, 1 to 5 (gRPC caps it there); 1 never retries."""
    initial_backoff_s: float = 0.1
    """Mean wait before the first retry; doubles each time."""
    max_backoff_s: float = 2.0
    """Longest mean wait before a retry."""
    retry_budget: int = 100
    """Tokens of the retry budget: a failure takes one, and no call is retried while half or less are left."""
    retry_refill: float = 0.1
    """Tokens that a success gives back."""
    keepalive_s: float = 30.0
    """Seconds without traffic after which a connection with calls in flight is probed."""


def service_config(options: ChannelOptions) -> str:
    """The gRPC service config as JSON: load balancing, health checks, retries, retry budget."""
    method: dict[str, object] = {"name": [{}]}
    config: dict[str, object] = {"loadBalancingConfig": [{"round_robin": {}}], "methodConfig": [method]}
    if options.max_attempts > 1:
        method["retryPolicy"] = {
            "maxAttempts": options.max_attempts,
            "initialBackoff": f"{options.initial_backoff_s:.3f}s",
            "maxBackoff": f"{options.max_backoff_s:.3f}s",
            "backoffMultiplier": 2,
            "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
        }
        config["retryThrottling"] = {"maxTokens": options.retry_budget, "tokenRatio": options.retry_refill}
    if options.health_check:
        config["healthCheckConfig"] = {"serviceName": options.health_service}
    return json.dumps(config)


def open_channel(target: str, options: ChannelOptions | None = None) -> grpc.Channel:
    """Open a blocking channel; target is "host:port", "host:port,host:port" or any gRPC name such as "dns:///scorer:50051"."""
    return grpc.insecure_channel(resolve_target(target), options=_channel_arguments(options or ChannelOptions()))


def open_aio_channel(target: str, options: ChannelOptions | None = None) -> aio.Channel:
    """The same for asyncio; call it inside the running event loop that will use it."""
    return aio.insecure_channel(resolve_target(target), options=_channel_arguments(options or ChannelOptions()))


def resolve_target(target: str) -> str:
    """Turn a bare comma-separated list into a gRPC name; anything else passes through. Lists hold IP addresses (or localhost) only."""
    if not target:
        raise ValueError("empty target: give host:port")
    scheme = target.partition(":")[0]
    if "," not in target or scheme in ("ipv4", "ipv6", "dns", "unix", "xds"):
        return target
    addresses = [part.strip().replace("localhost:", "127.0.0.1:") for part in target.split(",")]
    versions = {_ip_version(address, target) for address in addresses}
    if len(versions) != 1:
        raise ValueError(f"target {target!r} mixes IPv4 and IPv6 addresses")
    return f"ipv{versions.pop()}:{','.join(addresses)}"


def _ip_version(address: str, target: str) -> int:
    host, colon, port = address.rpartition(":")
    try:
        version = ipaddress.ip_address(host.strip("[]")).version
    except ValueError as error:
        raise ValueError(
            f"{host!r} in target list {target!r} is no IP address; for host names use one DNS name with several addresses"
        ) from error
    if not colon or not port.isdigit():
        raise ValueError(f"{address!r} in target list {target!r} has no port")
    return version


def _channel_arguments(options: ChannelOptions) -> list[tuple[str, str | int]]:
    return [
        ("grpc.service_config", service_config(options)),
        # A service config that DNS (TXT records) happens to carry must not replace ours.
        ("grpc.service_config_disable_resolution", 1),
        ("grpc.enable_retries", 1),
        ("grpc.per_rpc_retry_buffer_size", options.max_message_bytes),
        ("grpc.max_send_message_length", options.max_message_bytes),
        ("grpc.max_receive_message_length", options.max_message_bytes),
        ("grpc.keepalive_time_ms", round(options.keepalive_s * 1000)),
        ("grpc.keepalive_timeout_ms", 10_000),
        # A replica that comes back is used again within seconds, not after the default of two minutes.
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 5_000),
    ]
