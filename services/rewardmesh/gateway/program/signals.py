"""Signals: what a program asks of the services. The kind is the signal's first word: `{verifier: math}`, `{reward: helpful-rm}`, ..."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from google.protobuf.json_format import MessageToDict, SerializeToJsonError
from google.protobuf.message import DecodeError
from google.protobuf.struct_pb2 import Struct
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from rewardmesh.gateway.program.scales import LOGIT, PROBABILITY, SIGNED, UNIT, Scale, parse_scale

Want = Literal["objectives", "spread", "quantiles", "tokens", "spans", "rationale", "embedding"]

MOST = 2**31 - 1
"""Largest number that the services' messages can hold; what a service allows is less, and it says so."""


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
    spans: bool = False
    """Whether the part of the answer that decided the verdict is worth 2 * score - 1: a span reward for the trainer."""

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
            given = Struct()
            given.update(value)
            MessageToDict(Struct.FromString(given.SerializeToString()))
        except (RecursionError, DecodeError) as error:
            raise ValueError("is nested too deeply to be sent") from error
        except (ValueError, TypeError, SerializeToJsonError) as error:
            raise ValueError("must hold only texts, finite numbers, booleans, lists and mappings") from error
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
    """A judge of any mode: which template or rubric, which model, and how often it is asked."""

    judge: str
    """Template or rubric; empty for the service's default."""
    mode: str
    model: str = ""
    votes: int = Field(0, ge=0, le=MOST)
    """Sampled votes; 0 reads the probabilities of the labels."""
    temperature: float = Field(0.0, ge=0)
    seed: int = Field(0, ge=-(2**63), lt=2**63)

    kind: ClassVar[str] = "judge"
    own_scale: ClassVar[Scale] = UNIT

    @property
    def target(self) -> str:
        """Template or rubric."""
        return self.judge

    @property
    def scale(self) -> Scale:
        """Scale of its values."""
        return self.declared_scale or self.own_scale


class CompareSignal(JudgeSignal):
    """Mean probability to be better than the group's other members, or than the sample's reference answers."""

    mode: Literal["compare"]
    against: Literal["group", "references"]
    rationale: bool = False

    own_scale: ClassVar[Scale] = PROBABILITY

    @model_validator(mode="before")
    @classmethod
    def _against_something(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("against") is None:
            raise ValueError("mode compare needs `against: group` or `against: references`")
        return data


class RankSignal(JudgeSignal):
    """Score in a ranking of the whole group."""

    mode: Literal["rank"]
    method: Literal["all_pairs", "sparse", "listwise"] = "all_pairs"
    pairs_per_answer: int = Field(0, ge=0, le=MOST)
    repeats: int = Field(1, ge=1, le=MOST)
    aggregation: Literal["mean_wins", "borda", "bradley_terry", "elo"] = "mean_wins"

    @property
    def scale(self) -> Scale:
        """Strengths of Bradley and Terry are logits, so are Elo points; shares of wins are in [0, 1]."""
        return self.declared_scale or (LOGIT if self.aggregation in ("bradley_terry", "elo") else UNIT)

    @model_validator(mode="after")
    def _sparse(self) -> RankSignal:
        if self.pairs_per_answer and self.method != "sparse":
            raise ValueError("pairs_per_answer is for `method: sparse`")
        return self


class GradeSignal(JudgeSignal):
    """Total of a judge's grades, in [0, 1]."""

    mode: Literal["grade"]
    rationale: bool = False


class CritiqueSignal(JudgeSignal):
    """A critique in words: the mean value of its points, in [-1, 1], or the probability that the answer is no worse than its revision."""

    mode: Literal["critique"]
    value: Literal["points", "revision"] = "points"
    max_points: int = Field(0, ge=0, le=MOST)

    @property
    def scale(self) -> Scale:
        """Scale of its values."""
        return self.declared_scale or (SIGNED if self.value == "points" else PROBABILITY)

    @model_validator(mode="after")
    def _no_votes(self) -> CritiqueSignal:
        if self.votes:
            raise ValueError("votes: a critique is written once")
        return self


Signal = VerifierSignal | RewardSignal | CompareSignal | RankSignal | GradeSignal | CritiqueSignal

KINDS = ("verifier", "reward", "judge")
MODES: Mapping[str, type[CompareSignal] | type[RankSignal] | type[GradeSignal] | type[CritiqueSignal]] = {
    "compare": CompareSignal,
    "rank": RankSignal,
    "grade": GradeSignal,
    "critique": CritiqueSignal,
}


def signal_class(kind: str, mode: object) -> type[Signal]:
    """The class of a signal's kind and, for a judge, its mode.

    Raises:
        ValueError: a mode that does not exist.
    """
    if kind == "verifier":
        return VerifierSignal
    if kind == "reward":
        return RewardSignal
    if not isinstance(mode, str) or mode not in MODES:
        raise ValueError(f"must be one of {', '.join(MODES)}")
    return MODES[mode]
