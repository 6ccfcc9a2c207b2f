"""Configuration of a reward server."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from rewardmesh.engine.config import ScoringServerConfig


class RewardConfig(ScoringServerConfig):
    """A sequence-classification model served as a reward model."""

    model_config = SettingsConfigDict(env_prefix="REWARDMESH_REWARD_", frozen=True, extra="forbid")

    scale: Literal["logit", "probability", "unit"] = Field("logit", description="what kind of number the head's output is")
    objectives: list[str] = Field(default_factory=list, description="names of the head's outputs when it has several, in order")
    objective_weights: dict[str, float] = Field(default_factory=dict, description="weight of each objective in the value; default 1/n each")
