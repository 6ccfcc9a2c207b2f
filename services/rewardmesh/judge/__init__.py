"""Language-model judges: preferences, rankings and grades read from label probabilities."""

from rewardmesh.judge.config import JudgeConfig
from rewardmesh.judge.service import create_server

Config = JudgeConfig

__all__ = ["Config", "JudgeConfig", "create_server"]
