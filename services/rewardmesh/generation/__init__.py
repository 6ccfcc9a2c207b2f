"""Policies that write, as a gRPC service."""

from rewardmesh.generation.config import GenerationConfig
from rewardmesh.generation.service import create_server

Config = GenerationConfig

__all__ = ["Config", "GenerationConfig", "create_server"]
