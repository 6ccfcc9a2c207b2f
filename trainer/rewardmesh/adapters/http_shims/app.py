"""The shim's endpoints as one application."""

from __future__ import annotations

from importlib import metadata
from typing import Any

from starlette.applications import Starlette

from rewardmesh.adapters.http_shims.config import ShimConfig
from rewardmesh.adapters.http_shims.openrlhf import get_reward_endpoint
from rewardmesh.adapters.http_shims.scoring import Scorer
from rewardmesh.adapters.http_shims.vllm import vllm_endpoints
from rewardmesh.serving.http import Endpoint, Received, Reply, build_app, documented

SERVICE = "rewardmesh.http.Shim"

_ABOUT = (
    "A reward service or a gateway that answers as OpenRLHF's and vLLM's servers do. A call in which a score is absent is refused with "
    "the reasons: 503 when asking again may help, else 422."
)


def shim_app(config: ShimConfig, scorer: Scorer) -> Starlette:
    """The ASGI application over a scorer."""

    async def health(received: Received[Any]) -> Reply:
        serving = await scorer.serving()
        return Reply({"status": "SERVING"}) if serving else Reply({"status": "NOT_SERVING"}, 503)

    endpoints: list[Endpoint[Any]] = [
        get_reward_endpoint(scorer),
        *vllm_endpoints(scorer),
        Endpoint("GET", "/health", "Check", "Whether the service behind takes calls.", health),
    ]
    all_of_them = documented(endpoints, "rewardmesh shim", _ABOUT, metadata.version("rewardmesh"))
    return build_app(all_of_them, service=SERVICE, limit_bytes=config.max_body_bytes, allow_nan=config.on_absence == "nan")
