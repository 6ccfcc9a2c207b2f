"""What every server shares: configuration, life cycle, health, metrics, tracing, admission, batching."""

from rewardmesh.serving.config import BaseConfig, ConfigError, ServerConfig
from rewardmesh.serving.errors import CallError
from rewardmesh.serving.server import Server, run_server

__all__ = ["BaseConfig", "CallError", "ConfigError", "Server", "ServerConfig", "run_server"]
