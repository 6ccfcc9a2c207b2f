"""A gateway's gRPC server with its HTTP endpoints beside it: started together, drained at the same time."""

from __future__ import annotations

from typing import Any, cast

from grpc_health.v1 import health_pb2

from rewardmesh.gateway.config import GatewayConfig
from rewardmesh.gateway.http.app import HttpGateway
from rewardmesh.gateway.service import MeshServicer
from rewardmesh.serving import Server
from rewardmesh.serving.http import HttpListener


class GatewayHttpServer(Server):
    """Serves gRPC on `port` and HTTP on `http_port`, in one event loop."""

    def __init__(self, config: GatewayConfig, servicer: MeshServicer) -> None:
        super().__init__(config, "gateway")
        app = HttpGateway(config, servicer, self._serving).app()
        self._listener = HttpListener(app, host=config.host, port=config.http_port or 0, drain_seconds=config.drain_seconds)

    @property
    def http_address(self) -> str:
        """Where HTTP is served, once started."""
        return self._listener.address

    async def start(self) -> None:
        """Bind all ports. Raises RuntimeError or OSError when an address is taken."""
        await self._listener.start()
        try:
            await super().start()
        except BaseException:
            await self._listener.stopped()
            raise
        self.on_stop(self._listener.stopped)  # last added, so first: what requests need is closed after they have finished

    async def stop(self) -> None:
        """Drain both; requests and calls get `drain_seconds` together."""
        self._listener.begin_stop()
        await super().stop()

    async def _serving(self) -> bool:
        # The health service reads its context only to refuse unknown names.
        reply = await self._health.Check(health_pb2.HealthCheckRequest(service=""), cast(Any, None))
        return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)


def http_server(config: GatewayConfig, servicer: MeshServicer) -> Server:
    """The server of a gateway whose configuration has an `http_port`."""
    return GatewayHttpServer(config, servicer)
