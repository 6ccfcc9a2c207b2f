"""Configuration of a panel server."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from rewardmesh.serving.config import ServerConfig


class PanelConfig(ServerConfig):
    """Judges asked together, and the rule that makes their verdicts one."""

    model_config = SettingsConfigDict(env_prefix="REWARDMESH_PANEL_", env_nested_delimiter="__", frozen=True, extra="forbid")

    panel: Path = Field(description="the panel's file: its members, and a rule for each method")
    addresses: dict[str, str] = Field(
        default_factory=dict, description="address by member name; stands in for the file's own, where ports are known only at the start"
    )
    default_timeout_seconds: float = Field(60.0, gt=0, description="time a call may take when the caller sets no deadline")
    health_seconds: float = Field(2.0, gt=0, description="how often members are asked for their health")
