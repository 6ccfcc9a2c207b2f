"""What the search for principles can be told."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Settings(BaseModel):
    """Judge, thresholds and sizes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field("", description="which judge of the service; empty: its default")
    template: str = Field("", description="template of the tests; it must show context.principles. Empty: the service's default")
    proposing_template: str = Field("propose-principle", description="template that writes a principle as its rationale")
    candidates: tuple[str, ...] = Field((), description="principles to test beside those that the judge proposes")
    proposals: int = Field(60, ge=0, description="pairs from which the judge proposes a principle; 0 tests the given candidates alone")
    similarity: float = Field(0.7, gt=0, le=1, description="candidates that share so much of their words are one")
    margin: float = Field(0.1, gt=0, lt=0.5, description="a verdict within this of 0.5 is no vote")
    min_coverage: float = Field(0.2, ge=0, le=1, description="least share of the pairs on which a principle votes")
    min_net: float = Field(0.1, ge=-1, le=1, description="least share of votes for the labels less votes against them")
    min_effect: float = Field(0.02, ge=0, le=1, description="least mean change of the judge's probability by a principle")
    min_gain: float = Field(0.01, ge=0, le=1, description="least gain in reconstructed labels for one more principle")
    most_principles: int = Field(5, ge=1, description="longest constitution")
    shortlist: int = Field(10, ge=1, description="best tested principles that the constitution is chosen from")
    pairs: int = Field(400, ge=8, description="most pairs that are used, drawn with the seed")
    seed: int = Field(0, description="of the split of the pairs")
