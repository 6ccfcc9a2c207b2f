"""Configuration of a log-prob server."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from rewardmesh.engine.config import ModelServerConfig


class LogProbConfig(ModelServerConfig):
    """Frozen policies whose log-probabilities are asked for."""

    model_config = SettingsConfigDict(env_prefix="REWARDMESH_LOGPROB_", frozen=True, extra="forbid")

    name: str = Field("reference", min_length=1, description="name clients call the first policy by")
    policies: dict[str, str] = Field(default_factory=dict, description="further policies: name to model directory")
