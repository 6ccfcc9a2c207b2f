"""How to connect, spread, retry and hedge; and what gRPC is told for the channel of one replica."""

import json
from dataclasses import dataclass

from rewardmesh.client.balancing.targets import Resolver, resolve_dns

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
_CONNECT_TIMEOUT_MS = 5_000


@dataclass(frozen=True)
class ChannelOptions:
    """How to connect, spread calls, retry and hedge."""

    health_check: bool = True
    """Whether to send calls only to replicas whose grpc.health.v1 (where they offer it) says SERVING."""
    health_service: str = ""
    """Name whose health counts; empty for the whole server."""
    max_message_bytes: int = MAX_MESSAGE_BYTES
    """Largest message in either direction."""
    max_attempts: int = 4
    """Attempts a call, the first and the hedges included; 1 neither retries nor hedges."""
    initial_backoff_s: float = 0.1
    """Mean wait before the first retry; doubles each time."""
    max_backoff_s: float = 2.0
    """Longest mean wait before a retry."""
    retry_budget: int = 100
    """Most tokens of the budget, and those it begins with: every retry, hedge and resumed stream takes one."""
    retry_refill: float = 0.1
    """Tokens that a call gives back: extra attempts as a share of the calls, once the first tokens are spent."""
    hedging: bool = True
    """Whether a call that may be sent twice goes to a second replica when the first is slow. Needs two replicas."""
    hedge_after_s: float | None = None
    """Wait before a hedge; None for `hedge_multiple` times the 95th percentile of the method's recent calls."""
    hedge_multiple: float = 2.0
    """See `hedge_after_s`."""
    eject_after: int = 3
    """Failures in a row after which a replica gets no calls for a while. An overloaded replica's refusals are none."""
    ejection_s: float = 5.0
    """How long, the first time; doubles each time, up to `max_ejection_s`, and varies by a quarter. A health check ends it."""
    max_ejection_s: float = 60.0
    """Longest time without calls."""
    load_half_life_s: float = 1.0
    """Time in which the load that a reply reported comes to count half."""
    resolve_every_s: float = 10.0
    """How often names are resolved again; at once (but not more than every second) after a failure."""
    resolver: Resolver = resolve_dns
    """(name, port) -> IP addresses."""
    stream_window: int = 1024
    """Most items of a stream that are sent and not answered: beyond, the source waits."""
    keepalive_s: float = 10.0
    """Seconds without traffic after which a connection with calls in flight is probed."""
    keepalive_timeout_s: float = 10.0
    """Seconds a probe may take before the connection is given up, and with it the calls on it."""

    def __post_init__(self) -> None:
        for name in ("max_attempts", "eject_after", "stream_window"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is at least 1")
        for name in (
            "ejection_s",
            "max_ejection_s",
            "load_half_life_s",
            "resolve_every_s",
            "hedge_multiple",
            "keepalive_s",
            "keepalive_timeout_s",
        ):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is more than 0")
        for name in ("retry_budget", "retry_refill", "initial_backoff_s", "max_backoff_s"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is at least 0")


def service_config(options: ChannelOptions) -> str:
    """The gRPC service config of one replica's channel as JSON. No retries: they are made where another replica can be chosen.

    `round_robin` over the one address, because it minds health checks and `pick_first` does not.
    """
    config: dict[str, object] = {"loadBalancingConfig": [{"round_robin": {}}]}
    if options.health_check:
        config["healthCheckConfig"] = {"serviceName": options.health_service}
    return json.dumps(config)


def channel_arguments(options: ChannelOptions) -> list[tuple[str, str | int]]:
    """The gRPC channel arguments of one replica's channel."""
    return [
        ("grpc.service_config", service_config(options)),
        # A service config that DNS (TXT records) happens to carry must not replace ours.
        ("grpc.service_config_disable_resolution", 1),
        # Without a policy only what never left this process is sent again.
        ("grpc.enable_retries", 1),
        ("grpc.per_rpc_retry_buffer_size", options.max_message_bytes),
        ("grpc.max_send_message_length", options.max_message_bytes),
        ("grpc.max_receive_message_length", options.max_message_bytes),
        ("grpc.keepalive_time_ms", round(options.keepalive_s * 1000)),
        ("grpc.keepalive_timeout_ms", round(options.keepalive_timeout_s * 1000)),
        # What in truth decides when a probe is lost; a minute unless it is set.
        ("grpc.http2.ping_timeout_ms", round(options.keepalive_timeout_s * 1000)),
        # How long connecting may take: an address that drops packets must not hold a call for the default of 20 s.
        ("grpc.min_reconnect_backoff_ms", _CONNECT_TIMEOUT_MS),
        # A replica that comes back is used again within seconds, not after the default of two minutes.
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 5_000),
    ]
