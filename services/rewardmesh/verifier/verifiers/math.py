"""Math: whether the completion's final answer equals a reference.

Numbers are compared exactly; sets, tuples, intervals, unions, matrices and lists part by part; the letter of an option and a few words
("yes", "New York") as text; everything else by math-verify. What kind the reference is decides how the answer is read. A tolerance
takes numbers that are near, and with `graded` gives them a score that falls with the distance, as the location reward of LPO (Tang et
al. 2025) does.

Parsing and comparison of formulas may take forever or eat memory on hostile text; both are left to the worker's limits. Any matching
reference passes. A policy is responsible for stating its answer: a completion without a readable one fails, unless
`on_missing_answer` says "absent". A check that exceeds its limits has no verdict, unless `on_timeout` says "fail".
"""

from collections.abc import Iterator
from typing import Literal, Self

from pydantic import Field, model_validator

from rewardmesh.verifier.answers import Answer, find_answers
from rewardmesh.verifier.math import Gold, Match, Rules, compare, read_gold
from rewardmesh.verifier.math.gold import shortened
from rewardmesh.verifier.math.words import last_line, last_option
from rewardmesh.verifier.numbers import plain
from rewardmesh.verifier.registry import LimitedOptions, Verifier
from rewardmesh.verifier.verdicts import NoVerdict, Reason, SampleFields, Status, Verdict, failed, passed


class MathOptions(LimitedOptions):
    """How to find the answer, and what equals a reference."""

    answer_marker: str | None = Field(
        None, min_length=1, description="Only text behind its last occurrence is an answer; unset for the usual markers."
    )
    on_missing_answer: Literal["fail", "absent"] = Field("fail", description="What a completion without a readable answer gets.")
    absolute_tolerance: float = Field(0.0, ge=0, allow_inf_nan=False, description="How far a number may be from the reference.")
    relative_tolerance: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="The same as a share of the reference; the greater of the two counts."
    )
    graded: bool = Field(
        False, description="Whether a number within the tolerance gets PARTIAL with 1 - distance / tolerance instead of PASS."
    )
    ordered_lists: bool = Field(False, description='Whether "1, 2" is not "2, 1". Tuples are ordered and sets are not in any case.')
    units: Literal["ignore", "require"] = Field(
        "ignore",
        description="require: where the reference has a unit the answer must have it, or one of a known scale to it (150 cm for 1.5 m).",
    )

    @model_validator(mode="after")
    def _distance(self) -> Self:
        if self.graded and not (self.absolute_tolerance or self.relative_tolerance):
            raise ValueError("graded needs absolute_tolerance or relative_tolerance: the score falls to 0 at that distance")
        return self

    def rules(self) -> Rules:
        """What counts as equal."""
        return Rules(self.absolute_tolerance, self.relative_tolerance, self.graded, self.ordered_lists, self.units)


def verify(sample: SampleFields, options: MathOptions) -> Verdict | NoVerdict:
    """INVALID_INPUT when no reference can be read; UNPARSABLE for a missing answer with `on_missing_answer: absent`."""
    golds = [gold for gold in (read_gold(text, options.answer_marker) for text in sample.references) if gold]
    if not golds:
        return NoVerdict(Reason.INVALID_INPUT, f"references: no answer could be read from {shortened(sample.references[0])}")
    found = list(find_answers(sample.completion, options.answer_marker))
    rules = options.rules()
    best: tuple[Match, Answer, Gold] | None = None
    for gold in golds:
        for answer in _candidates(found, gold, sample.completion):
            match = compare(gold, answer, rules)
            if match is not None:
                if best is None or match.score > best[0].score:
                    best = match, answer, gold
                break
        if best and best[0].score == 1:
            break
    if best is None:
        detail = "the completion states no answer that can be read"
        return failed(detail) if options.on_missing_answer == "fail" else NoVerdict(Reason.UNPARSABLE, detail)
    return _verdict(*best, golds)


def _candidates(found: list[Answer], gold: Gold, completion: str) -> Iterator[Answer]:
    """What may be the answer, best first. Without any marker, an option or a word stands elsewhere than a number would."""
    marked = any(answer.marked for answer in found)
    if (gold.letter or gold.words) and not marked:
        other = last_option(completion) if gold.letter else last_line(completion)
        if other:
            yield other
    else:
        yield from found


def _verdict(match: Match, answer: Answer, gold: Gold, golds: list[Gold]) -> Verdict:
    stated = str(answer.number) if answer.number else shortened(plain(answer.text), quote=False)
    span = (answer.start, answer.end)
    text = f"answer {stated!r} ({answer.source})"
    if match.score == 1:
        return passed(f"{text} equals reference {gold}", extracted_answer=stated, span=span)
    if match.score > 0:
        near = f"{text} is near reference {gold}: {match.score:.3g} of the tolerance is left"
        return Verdict(Status.PARTIAL, match.score, near, stated, span)
    wanted = " or ".join(map(str, golds))
    why = f": {match.why}" if match.why else ""
    return failed(f"{text} does not equal reference {wanted}{why}", extracted_answer=stated, span=span)


VERIFIER = Verifier(
    "math",
    "The final answer equals a reference, as a number, an expression, a set, an interval, an option or a word.",
    ("completion.text", "references"),
    MathOptions,
    verify,
)
