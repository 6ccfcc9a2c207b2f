"""What a shim can be told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ShimConfig:
    """Settings of a shim.

    Attributes:
        target: "host:port" of the service behind it.
        behind: what that is: a reward service or a gateway.
        name: of the model or the program; "" for the only one.
        host, port: where HTTP is served; port 0 picks a free one.
        metrics_port: Prometheus port; 0 picks a free one, None for none.
        on_absence: "fail" refuses a call in which a score is absent; "nan" answers NaN for it, which is no JSON but which Python reads.
        timeout_seconds: longest time for one call.
        max_body_bytes: largest request.
        drain_seconds: longest time requests may take after SIGTERM.
    """

    target: str
    behind: Literal["reward", "gateway"] = "reward"
    name: str = ""
    host: str = "127.0.0.1"
    port: int = 8000
    metrics_port: int | None = None
    on_absence: Literal["fail", "nan"] = "fail"
    timeout_seconds: float = 150.0
    max_body_bytes: int = 64 * 2**20
    drain_seconds: float = 30.0
