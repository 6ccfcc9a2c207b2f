"""What every constraint is: an id, keyword arguments that are validated, and a check of a text."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from rewardmesh.verifier.verdicts import Reason


class Text(NamedTuple):
    """What a constraint reads."""

    whole: str
    tokens: int | None = None
    """Sampled tokens of the completion; None when they are not known. A loose reading counts them all."""


class Finding(NamedTuple):
    """A decision."""

    kept: bool
    evidence: str
    """For people: what was found against what was asked for."""
    span: tuple[int, int] | None = None
    """Code-point offsets [start, end) of what decided it."""


class Undecided(NamedTuple):
    """The check cannot tell."""

    reason: Reason
    detail: str


class Constraint(BaseModel):
    """Base of the constraints. Subclasses set `id` and add their keyword arguments as fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    quick: ClassVar[bool] = True
    """Whether `check` takes half a microsecond a code point at most, whatever the text, and loads nothing."""

    id: str
    weight: float = Field(1.0, ge=0.001, le=1000, description="How much it counts beside the others.")

    def check(self, text: Text) -> Finding | Undecided:
        """Whether `text`, which is not blank, keeps the constraint."""
        raise NotImplementedError

    def cheap(self) -> bool:
        """Whether it may be checked in the server's own process."""
        return self.quick


class Counted(Constraint):
    """Base of the constraints that ask for a number of things between two bounds, both inclusive."""

    minimum: int | None = Field(None, ge=0, description="Least number; unset for 1, or for none with a maximum.")
    maximum: int | None = Field(None, ge=0, description="Greatest number; unset for no bound.")

    def model_post_init(self, context: Any, /) -> None:
        """Refuse bounds that nothing keeps."""
        if self.maximum is not None and (self.minimum or 0) > self.maximum:
            raise ValueError(f"minimum {self.minimum} is greater than maximum {self.maximum}")

    def judge(self, count: int, things: str) -> Finding:
        """Whether `count` lies within the bounds."""
        least = self.minimum if self.minimum is not None else (1 if self.maximum is None else 0)
        most = "" if self.maximum is None else f", at most {self.maximum}"
        kept = least <= count and (self.maximum is None or count <= self.maximum)
        return Finding(kept, f"{count} {things}; at least {least}{most} wanted")


Relation = Literal["less than", "at least", "at most", "more than", "exactly"]
"""How a count compares with a threshold. IFEval knows the first two."""


def compared(count: int, relation: Relation, threshold: int, things: str) -> Finding:
    """Whether `count` is in this relation to the threshold."""
    kept = {
        "less than": count < threshold,
        "at least": count >= threshold,
        "at most": count <= threshold,
        "more than": count > threshold,
        "exactly": count == threshold,
    }[relation]
    return Finding(kept, f"{count} {things}; {relation} {threshold} wanted")
