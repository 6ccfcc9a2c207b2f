"""Configuration of a log-prob server."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from rewardmesh.engine.config import ScoringServerConfig


class LogProbConfig(ScoringServerConfig):
    """Frozen policies whose log-probabilities are asked for."""

    model_config = SettingsConfigDict(env_prefix="REWARDMESH_LOGPROB_", frozen=True, extra="forbid")

    name: str = Field("reference", min_length=1, description="name clients call the first policy by")
    policies: dict[str, str] = Field(default_factory=dict, description="further policies: name to model directory")
    adapters: dict[str, str] = Field(
        default_factory=dict, description="LoRA adapters on the first policy, its weights in memory once: name to adapter directory"
    )
    max_open_streams: int = Field(64, ge=1, description="most StreamNextLogits calls open at a time; more are refused")
    max_stream_tokens: int = Field(65536, ge=1, description="most tokens in the KV caches of all open streams; more are refused")
    stream_idle_seconds: float = Field(60.0, gt=0, description="a stream whose client sends nothing for so long is ended")
