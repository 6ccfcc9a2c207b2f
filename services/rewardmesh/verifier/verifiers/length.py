"""Length: whether the completion has between `minimum` and `maximum` characters, words or tokens, with a soft margin.

Within the bounds PASS; outside by d <= margin units PARTIAL with score 1 - d / (margin + 1); further out FAIL.
"""

from typing import Literal, Self

from pydantic import Field, model_validator

from rewardmesh.verifier.registry import Options, Verifier
from rewardmesh.verifier.verdicts import NoVerdict, Reason, SampleFields, Status, Verdict, failed, passed


class LengthOptions(Options):
    """Bounds, both inclusive, in `unit`."""

    unit: Literal["characters", "words", "tokens"] = Field(
        "characters", description="Code points, whitespace-separated words, or sampled token ids."
    )
    minimum: int | None = Field(None, ge=0, description="Least length that passes; unset for no lower bound.")
    maximum: int | None = Field(None, ge=0, description="Greatest length that passes; unset for no upper bound.")
    margin: int = Field(0, ge=0, description="Units outside the bounds within which the score falls linearly instead of to 0.")

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if self.minimum is None and self.maximum is None:
            raise ValueError("set minimum, maximum or both")
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise ValueError(f"minimum {self.minimum} is greater than maximum {self.maximum}")
        return self


def verify(sample: SampleFields, options: LengthOptions) -> Verdict | NoVerdict:
    """NOT_APPLICABLE when tokens are to be counted and the sample has no token ids."""
    if options.unit == "tokens":
        if sample.token_ids is None:
            return NoVerdict(Reason.NOT_APPLICABLE, "unit is tokens and completion.token_ids is not set")
        length = len(sample.token_ids)
    elif options.unit == "words":
        length = len(sample.completion.split())
    else:
        length = len(sample.completion)
    below = max(0, options.minimum - length) if options.minimum is not None else 0
    above = max(0, length - options.maximum) if options.maximum is not None else 0
    distance = below or above
    least = "no minimum" if options.minimum is None else f"minimum {options.minimum}"
    greatest = "no maximum" if options.maximum is None else f"maximum {options.maximum}"
    evidence = f"{length} {options.unit}; {least}, {greatest}, margin {options.margin}"
    if distance == 0:
        return passed(evidence)
    if distance <= options.margin:
        return Verdict(Status.PARTIAL, 1 - distance / (options.margin + 1), evidence)
    return failed(evidence)


VERIFIER = Verifier("length", "The completion's length lies within bounds.", ("completion.text",), LengthOptions, verify, inline=True)
