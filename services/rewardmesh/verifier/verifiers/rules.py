"""Rules: whether the completion keeps constraints on its form, such as IFEval's (Zhou et al. 2023, arXiv 2311.07911).

The constraints (see `rewardmesh.verifier.rules`) come from the options, from the sample's first reference, or from both. The score is the
share of their weight that is kept, or 1 only when all are. What a constraint says stands in the verdict's steps, one a constraint; the
category is the family of the first broken one. A constraint that cannot tell takes the verdict with it when the score depends on it.
"""

from typing import Literal, Self

from pydantic import Field, model_validator

from rewardmesh.verifier.registry import LimitedOptions, Verifier
from rewardmesh.verifier.rules import AnyConstraint, Constraint, Finding, Text, Undecided, check, constraints_of, loose, strict
from rewardmesh.verifier.rules.readings import LOOSE_READINGS
from rewardmesh.verifier.verdicts import NoVerdict, Reason, SampleFields, Status, StepVerdict, Verdict, step_of

INLINE_WORK = 2**16
"""Code points that are read, all constraints and readings together, beyond which a sample is checked by a worker."""
_SHOWN = 4


class RulesOptions(LimitedOptions):
    """Which constraints, and how they make a score."""

    constraints: tuple[AnyConstraint, ...] = Field((), max_length=64, description="Constraints on every completion of the call.")
    source: Literal["options", "reference", "both"] = Field(
        "options",
        description="Whose constraints are checked: the options', those of the sample's first reference (JSON: "
        '{"constraints": [...]}, or "instruction_id_list" and "kwargs" as in IFEval), or both.',
    )
    grading: Literal["fraction", "all"] = Field("fraction", description="fraction: the share of the weight that is kept. all: 1 or 0.")
    loose: bool = Field(
        False, description="Whether a constraint is kept when it is without the first line, the last line, both, or any asterisk."
    )

    @model_validator(mode="after")
    def _some_constraint(self) -> Self:
        if self.source == "options" and not self.constraints:
            raise ValueError("constraints: give at least one, or set source to reference")
        if self.source == "reference" and self.constraints:
            raise ValueError("constraints: are not checked with source: reference; set source to both")
        return self


def verify(sample: SampleFields, options: RulesOptions) -> Verdict | NoVerdict:
    """INVALID_INPUT for a reference that holds no constraints; NOT_APPLICABLE without a reference; ABSTAINED when undecided."""
    constraints: tuple[Constraint, ...] = options.constraints
    if options.source != "options":
        if not sample.references:
            return NoVerdict(Reason.NOT_APPLICABLE, f"source is {options.source} and the sample has no references")
        try:
            constraints += constraints_of(sample.references[0])
        except ValueError as error:
            return NoVerdict(Reason.INVALID_INPUT, f"references[0]: {error}")
    text = Text(sample.completion, None if sample.token_ids is None else len(sample.token_ids))
    readings = loose(text) if options.loose else strict(text)
    return _graded(constraints, [check(constraint, readings) for constraint in constraints], options.grading)


def _graded(constraints: tuple[Constraint, ...], found: list[Finding | Undecided], grading: str) -> Verdict | NoVerdict:
    broken: list[tuple[str, Finding]] = []
    undecided: Undecided | None = None
    kept_weight = weight = 0.0
    steps: list[StepVerdict] = []
    for index, (constraint, one) in enumerate(zip(constraints, found, strict=True)):
        if isinstance(one, Undecided):
            undecided = undecided or Undecided(one.reason, f"{constraint.id}: {one.detail}")
            continue
        weight += constraint.weight
        kept_weight += constraint.weight * one.kept
        steps.append(step_of(index, float(one.kept), f"{constraint.id}: {one.evidence}"))
        if not one.kept:
            broken.append((constraint.id, one))
    if undecided is not None and not (broken and grading == "all"):
        return NoVerdict(undecided.reason, undecided.detail)
    if not broken:
        return Verdict(Status.PASS, 1.0, f"all {len(found)} constraints are kept", steps=tuple(steps))
    shown = "; ".join(f"{name}: {one.evidence}" for name, one in broken[:_SHOWN])
    more = f"; and {len(broken) - _SHOWN} more" if len(broken) > _SHOWN else ""
    score = 0.0 if grading == "all" else kept_weight / weight
    status = Status.PARTIAL if score else Status.FAIL
    span = next((one.span for _, one in broken if one.span), None)
    category = broken[0][0].partition(":")[0]
    return Verdict(status, score, f"{len(broken)} of {len(found)} broken: {shown}{more}", "", span, steps=tuple(steps), category=category)


def _inline(sample: SampleFields, options: RulesOptions) -> bool:
    constraints = options.constraints
    work = len(sample.completion) * len(constraints) * (LOOSE_READINGS if options.loose else 1)
    return options.source == "options" and work <= INLINE_WORK and all(one.cheap() for one in constraints)


VERIFIER = Verifier(
    "rules",
    "The completion keeps constraints on its form: keywords, length, layout, language, JSON, XML and more.",
    ("completion.text",),
    RulesOptions,
    verify,
    inline=_inline,
)
