"""Signals: what a program asks of the services. The kind is the signal's first word: `{verifier: math}`, `{reward: helpful-rm}`, ..."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from google.protobuf.struct_pb2 import Struct
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from rewardmesh.gateway.program.scales import LOGIT, PROBABILITY, UNIT, Scale, parse_scale

Want = Literal["objectives", "spread", "quantiles", "tokens", "spans", "rationale", "embedding"]


class Strict(BaseModel):
    """Base of everything read from a program: no unknown fields, no conversions, finite numbers."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class _Signal(Strict):
    timeout: float | None = Field(None, gt=0)
    """Seconds it is given at most; None for its share of the caller's deadline."""
    service: str = ""
    """Name of the backend that answers; empty to look one up by kind and target."""
    declared_scale: Annotated[Scale | None, BeforeValidator(lambda data: None if data is None else parse_scale(data))] = Field(
        None, alias="scale"
    )
    """Scale its values are known to have; None for the kind's own."""


class VerifierSignal(_Signal):
    """Score of a verdict, in [0, 1]."""

    verifier: str = Field(min_length=1)
    options: dict[str, Any] = Field(default_factory=dict)

    kind: ClassVar[str] = "verifier"

    @property
    def target(self) -> str:
        """The verifier's name."""
        return self.verifier

    @property
    def scale(self) -> Scale:
        """Scale of its values."""
        return self.declared_scale or UNIT

    @field_validator("options")
    @classmethod
    def _plain(cls, value: dict[str, Any]) -> dict[str, Any]:
        try:
            Struct().update(value)
        except (ValueError, TypeError) as error:
            raise ValueError("must hold only texts, numbers, booleans, lists and mappings") from error
        return value


class RewardSignal(_Signal):
    """Value of a reward model, or one of its objectives. A logit unless declared otherwise."""

    reward: str
    objective: str | None = Field(None, min_length=1)
    want: list[Want] = Field(default_factory=list)
    """Parts of the reward to compute and keep in the component beside the value."""

    kind: ClassVar[str] = "reward"

    @property
    def target(self) -> str:
        """The model's name."""
        return self.reward

    @property
    def scale(self) -> Scale:
        """Scale of its values."""
        return self.declared_scale or LOGIT


class JudgeSignal(_Signal):
    """A judge: `compare` gives the win rate against the group (a probability), `grade` the total in [0, 1]."""

    judge: str
    """Template (compare) or rubric (grade); empty for the service's default."""
    mode: Literal["compare", "grade"]
    against: Literal["group"] | None = None
    model: str = ""
    votes: int = Field(0, ge=0)
    temperature: float = Field(0.0, ge=0)
    seed: int = 0
    rationale: bool = False

    kind: ClassVar[str] = "judge"

    @property
    def target(self) -> str:
        """Template or rubric."""
        return self.judge

    @property
    def scale(self) -> Scale:
        """Scale of its values."""
        return self.declared_scale or (PROBABILITY if self.mode == "compare" else UNIT)

    @model_validator(mode="after")
    def _against(self) -> JudgeSignal:
        if (self.mode == "compare") != (self.against == "group"):
            raise ValueError("mode compare needs `against: group`, mode grade has no `against`")
        return self


Signal = VerifierSignal | RewardSignal | JudgeSignal

KINDS: Mapping[str, type[VerifierSignal] | type[RewardSignal] | type[JudgeSignal]] = {
    "verifier": VerifierSignal,
    "reward": RewardSignal,
    "judge": JudgeSignal,
}
