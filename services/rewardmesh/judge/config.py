"""Configuration of a judge server."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from rewardmesh.engine.config import ScoringServerConfig


class JudgeConfig(ScoringServerConfig):
    """A causal language model served as a judge."""

    model_config = SettingsConfigDict(env_prefix="REWARDMESH_JUDGE_", frozen=True, extra="forbid")

    templates: list[str] = Field(
        default_factory=list,
        description="template files, or directories of *.yaml, beside the built-in ones; the same name replaces a built-in",
    )
    default_template: str = Field(
        "", description="template of Compare and Rank calls that name none; empty: the first configured, else compare"
    )
    default_rubric: str = Field("", description="rubric of Grade calls that name none; empty: the first configured, else grade-yes-no")
    min_label_mass: float = Field(
        0.01,
        ge=0,
        le=1,
        description="below this probability of all labels together a verdict is UNPARSABLE: the model wants to say something else",
    )
    overlength: Literal["refuse"] = Field("refuse", description="longer input than the model takes is refused: a cut changes the verdict")
