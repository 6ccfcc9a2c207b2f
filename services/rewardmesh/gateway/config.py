"""Configuration of a gateway."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from rewardmesh.serving.config import ServerConfig


class GatewayConfig(ServerConfig):
    """Programs and the services they call."""

    model_config = SettingsConfigDict(env_prefix="REWARDMESH_GATEWAY_", env_nested_delimiter="__", frozen=True, extra="forbid")

    programs: list[Path] = Field(min_length=1, description="program files, or folders of *.yaml")
    backends: dict[str, str] = Field(
        default_factory=dict,
        description="address by kind ('reward', 'judge', 'verifier'), by kind/target ('reward/helpful-rm'), or by a signal's `service`",
    )
    baselines: dict[str, float] = Field(
        default_factory=dict, description="stored baseline by 'program/signal': what `centre: baseline` stands for"
    )
    default_timeout_seconds: float = Field(60.0, gt=0, description="time a group may take when the caller sets no deadline")
    groups_in_flight: int = Field(64, ge=1, description="groups of one call or stream that are evaluated at the same time")
    http_port: int | None = Field(None, ge=0, le=65535, description="port for JSON over HTTP; 0 picks a free one; none unless given")
    http_max_samples: int = Field(
        65_536, ge=1, description="samples of HTTP requests under way at the same time; more are refused with 429"
    )
