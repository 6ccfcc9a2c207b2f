"""Configuration of a generation server."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from rewardmesh.engine.config import ModelServerConfig


class GenerationConfig(ModelServerConfig):
    """A policy that writes completions."""

    model_config = SettingsConfigDict(env_prefix="REWARDMESH_GENERATION_", frozen=True, extra="forbid")

    name: str = Field("policy", min_length=1, description="name clients call the policy by")
    max_rows: int = Field(256, ge=1, description="most completions sampled side by side")
    max_queue_rows: int = Field(65536, ge=1, description="more completions waiting than this are refused with RESOURCE_EXHAUSTED")
    default_max_tokens: int = Field(256, ge=1, description="token limit of a completion when the request names none")
