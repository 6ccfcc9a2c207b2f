"""Knowledge boundary: right answers before refusals, refusals before wrong answers, as RLKF rewards (Xu et al. 2024, arXiv 2403.18349).

Another verifier says what is right. A completion that refuses and states no answer gets PARTIAL with `refusal_score`, even where one of
its numbers would pass: else a number in a refusal would be a free guess. With `known_if` a refusal counts
less where the other answers of its group show that the policy knows: RLKF probes the same by repeated samples before training, and
trains a reward model on it; here the group is the probe, and the rule itself is the reward.

An answer that is stated makes a completion no refusal, whatever doubts it utters.
"""

from collections.abc import Sequence
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from rewardmesh.verifier.answers import find_answers
from rewardmesh.verifier.numbers import plain
from rewardmesh.verifier.patterns import LinearPattern
from rewardmesh.verifier.refusals import find_refusal
from rewardmesh.verifier.registry import LimitedOptions, judging_groups
from rewardmesh.verifier.verdicts import NoVerdict, Reason, SampleFields, Status, Verdict
from rewardmesh.verifier.verifiers import exact_match, math

_INNER = {"math": math.VERIFIER, "exact-match": exact_match.VERIFIER}
_TENTATIVE = ("but ", "maybe", "probably", "perhaps", "i think", "i guess", "i believe", "i would say", "my guess", "might be", "could be")


class KnowledgeBoundaryOptions(LimitedOptions):
    """What is right, what is a refusal, and what a refusal is worth."""

    verifier: Literal["math", "exact-match"] = Field("math", description="Says whether an answer is right.")
    options: dict[str, Any] = Field({}, description="That verifier's options.")
    refusal_score: float = Field(0.5, gt=0, lt=1, description="Score of a refusal.")
    refusal_patterns: tuple[LinearPattern, ...] = Field(
        (), description="Further patterns (RE2) of which one makes a refusal; case is ignored."
    )
    english: bool = Field(True, description="Whether the usual English phrases make a refusal.")
    known_if: Literal["none", "any_correct", "share"] = Field(
        "none",
        description="When the group shows that its question is known: never, when one answer is right, or when at least `known_share` are.",
    )
    known_share: float = Field(0.5, gt=0, le=1, description="Share of the group's completions that have to be right.")
    known_refusal_score: float = Field(
        0.0, ge=0, lt=1, description="Score of a refusal of a known question; below refusal_score, 0 is FAIL."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.english and not self.refusal_patterns:
            raise ValueError("give refusal_patterns where english is false: nothing would be a refusal")
        if self.known_refusal_score >= self.refusal_score:
            raise ValueError("known_refusal_score must be below refusal_score")
        try:
            _INNER[self.verifier].options.model_validate(self.options)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise ValueError(f"options.{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
        return self


def verify_group(samples: Sequence[SampleFields], options: KnowledgeBoundaryOptions) -> list[Verdict | NoVerdict]:
    """One result a sample; what the other verifier cannot tell stays untold unless it is a refusal without a readable answer."""
    inner = _INNER[options.verifier]
    chosen = inner.options.model_validate(options.options)
    results = [inner.verify(sample, chosen) for sample in samples]
    right = sum(isinstance(result, Verdict) and result.status is Status.PASS for result in results)
    known = right > 0 and (
        options.known_if == "any_correct" or (options.known_if == "share" and right >= options.known_share * len(samples))
    )
    return [
        _refused(span, known, right, len(samples), options) if (span := _refusal(sample, result, options)) else result
        for sample, result in zip(samples, results, strict=True)
    ]


def _refusal(sample: SampleFields, result: Verdict | NoVerdict, options: KnowledgeBoundaryOptions) -> tuple[int, int] | None:
    """Where a completion refuses; None when it does not, or states an answer all the same."""
    if isinstance(result, NoVerdict) and result.reason is not Reason.UNPARSABLE:
        return None
    text, marker = sample.completion, options.options.get("answer_marker")
    if options.verifier == "exact-match":
        if isinstance(result, Verdict) and result.status is Status.PASS:
            return None
        if marker is not None and marker in text:
            at = text.rfind(marker) + len(marker)
            return _shifted(find_refusal(text[at:], options.refusal_patterns, options.english, _tentative), at)
        return find_refusal(text, options.refusal_patterns, options.english, _tentative)
    for answer in find_answers(text, marker):
        if not answer.marked:
            break
        # "Answer: I do not know" states that none is known; any other stated answer is one.
        refuses = not answer.number and find_refusal(plain(answer.text), options.refusal_patterns, options.english, _states_number)
        return (answer.start, answer.end) if refuses else None
    return find_refusal(text, options.refusal_patterns, options.english, _states_number)


def _refused(span: tuple[int, int], known: bool, right: int, size: int, options: KnowledgeBoundaryOptions) -> Verdict:
    score = options.known_refusal_score if known else options.refusal_score
    group = f"; {right} of the group's {size} completions are right" if options.known_if != "none" else ""
    evidence = f"a refusal{' of a question that is known' if known else ''}{group}"
    return Verdict(Status.PARTIAL if score else Status.FAIL, score, evidence, span=span, category="refusal")


def _shifted(span: tuple[int, int] | None, offset: int) -> tuple[int, int] | None:
    return (span[0] + offset, span[1] + offset) if span else None


def _states_number(text: str) -> bool:
    return any(sign.isdigit() for sign in text) or _tentative(text)


def _tentative(text: str) -> bool:
    lowered = text.casefold()
    return any(word in lowered for word in _TENTATIVE)


VERIFIER = judging_groups(
    "knowledge-boundary",
    "Right before refused before wrong; a refusal of what the group shows to be known counts less.",
    ("completion.text", "references"),
    KnowledgeBoundaryOptions,
    verify_group,
)
