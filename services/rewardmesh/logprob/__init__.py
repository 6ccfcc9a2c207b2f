"""Reference policies as a gRPC service."""

from rewardmesh.logprob.config import LogProbConfig
from rewardmesh.logprob.server import create_server

Config = LogProbConfig

__all__ = ["Config", "LogProbConfig", "create_server"]
