"""Reward models as a gRPC service."""

from rewardmesh.reward.config import RewardConfig
from rewardmesh.reward.service import create_server

Config = RewardConfig

__all__ = ["Config", "RewardConfig", "create_server"]
