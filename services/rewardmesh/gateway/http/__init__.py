"""Plain JSON over HTTP in front of a gateway, for product systems without gRPC."""

from rewardmesh.gateway.http.server import GatewayHttpServer, http_server

__all__ = ["GatewayHttpServer", "http_server"]
