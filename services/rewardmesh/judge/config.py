"""Configuration of a judge server."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from rewardmesh.engine.config import MeteredServerConfig


class JudgeConfig(MeteredServerConfig):
    """A causal language model served as a judge."""

    model_config = SettingsConfigDict(env_prefix="REWARDMESH_JUDGE_", frozen=True, extra="forbid")

    templates: list[str] = Field(
        default_factory=list,
        description="template files, or directories of *.yaml, beside the built-in ones; the same name replaces a built-in",
    )
    constitutions: list[str] = Field(
        default_factory=list, description="files of principles, or directories of *.yaml, that items and templates name by @name"
    )
    default_template: str = Field(
        "", description="template of Compare and Rank calls that name none; empty: the first configured, else compare"
    )
    default_rubric: str = Field("", description="rubric of Grade calls that name none; empty: the first configured, else grade-yes-no")
    default_critique: str = Field("", description="template of Critique calls that name none; empty: the first configured, else critique")
    min_label_mass: float = Field(
        0.01,
        ge=0,
        le=1,
        description="below this probability of all labels together a verdict is UNPARSABLE: the model wants to say something else",
    )
    require_audit: bool = Field(
        False, description="start, load and activate only models whose default template has passed `rewardmesh audit judge`"
    )
    audits: str = Field("", description="directory of audit results, one JSON file a fingerprint; see require_audit")
    overlength: Literal["refuse"] = Field("refuse", description="longer input than the model takes is refused: a cut changes the verdict")

    @model_validator(mode="after")
    def _check_audits(self) -> JudgeConfig:
        if self.require_audit and not self.audits:
            raise ValueError("audits: is empty; name the directory where require_audit finds the results of `rewardmesh audit judge`")
        return self
