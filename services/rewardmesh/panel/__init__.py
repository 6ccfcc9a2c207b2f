"""Panels: several judges behind one JudgeService, their verdicts made one by a rule."""

from rewardmesh.panel.config import PanelConfig
from rewardmesh.panel.service import create_server

Config = PanelConfig

__all__ = ["Config", "PanelConfig", "create_server"]
