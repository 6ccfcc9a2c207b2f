"""What a panel's file says of one member."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Strict(BaseModel):
    """Base of all parts of a panel's file: unknown fields are mistakes, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class MemberSpec(Strict):
    """Where a judge is, what it is asked with, and what its verdict weighs."""

    address: str = Field("", description="host:port or dns:///name:port of any JudgeService; empty: from the server's `addresses`")
    model: str = Field("", description="the model's name there; empty: its default")
    version: int = Field(0, description="version of the model; 0 the active one, -1 the last loaded before it, -2 the one before that")
    template: str = Field("", description="template of Compare and Rank; empty: the caller's")
    rubric: str = Field("", description="rubric of Grade; empty: the caller's")
    critique_template: str = Field("", description="template of Critique; empty: the caller's")
    weight: float = Field(1.0, gt=0, allow_inf_nan=False, description="what its verdict weighs against others'")
    votes: int | None = Field(None, ge=0, description="sampled votes; unset: as the caller asks")
    notes: tuple[str, ...] = Field((), description="notes added to each item's context for this member: a persona, a point of view")
    timeout: float | None = Field(None, gt=0, description="seconds it may take; unset: what is left of the call")
