"""The gateway: runs reward programs over samples and keeps every component."""

from rewardmesh.gateway.config import GatewayConfig
from rewardmesh.gateway.service import create_server

Config = GatewayConfig

__all__ = ["Config", "GatewayConfig", "create_server"]
