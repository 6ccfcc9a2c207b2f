"""Trajectory: whether the tool calls of a completion of several turns are well formed, the wanted ones, and lead to the right answer.

Every call is a step (or every part from one of the sample's `step_starts` to the next) with a verdict of its own, for step rewards. The
score is the weighted mean of up to four parts: the share of calls without a mistake, the share of required calls that were made, how much
of a reference plan was followed (partial credit, rather than all or nothing), and the final answer as another verifier scores it.

Tool responses that stand in the completion are believed: whoever rolls out must not let the policy write them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, StringConstraints, ValidationError, field_validator, model_validator

from rewardmesh.verifier.call_checks import CallRules, Mistake, mistakes
from rewardmesh.verifier.json_schemas import schema_text
from rewardmesh.verifier.patterns import LinearPattern
from rewardmesh.verifier.plans import WantedCall, as_prefix, in_any_order, in_order
from rewardmesh.verifier.registry import LimitedOptions, Options, Verifier
from rewardmesh.verifier.strict_json import read_json
from rewardmesh.verifier.tool_calls import Trajectory, from_messages, from_tags
from rewardmesh.verifier.trajectory_steps import Part, step_verdicts
from rewardmesh.verifier.verdicts import NoVerdict, Reason, SampleFields, Status, Verdict
from rewardmesh.verifier.verifiers import contains, exact_match, math

MOST_CALLS = 512
"""Calls beyond which a trajectory fails unread: they are the policy's."""
NEARLY_ONE = 1 - 2**-20
"""Greatest score of a trajectory with a mistake that counts, however small its weight."""
_ANSWERING = {one.name: one for one in (math.VERIFIER, exact_match.VERIFIER, contains.VERIFIER)}

Tag = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][\w.|-]*$", max_length=100)]


class AnswerCheck(BaseModel):
    """How the final answer is checked."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    verifier: Literal["math", "exact-match", "contains"] = Field(description="Which verifier holds it against the gold answers.")
    options: dict[str, Any] = Field(default_factory=dict, description="That verifier's options.")
    _read: Options = PrivateAttr()

    def model_post_init(self, context: Any, /) -> None:
        """Refuse options that the verifier does not have."""
        try:
            self._read = _ANSWERING[self.verifier].options.model_validate(self.options)
        except ValidationError as error:
            from rewardmesh.serving.config import said  # heavy: workers start without it

            first = error.errors(include_url=False)[0]
            message = "unknown option" if first["type"] == "extra_forbidden" else said(first)
            raise ValueError(f"options.{'.'.join(map(str, first['loc']))}: {message}") from error

    def verify(self, answer: str, golds: tuple[str, ...]) -> Verdict | NoVerdict:
        """What the verifier says of the answer."""
        return _ANSWERING[self.verifier].verify(SampleFields(answer, golds), self._read)


class Weights(BaseModel):
    """How much each part counts. A part that the options do not ask for does not count at all."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    calls: float = Field(1.0, ge=0, le=1000, description="Of the share of calls without a mistake.")
    required: float = Field(1.0, ge=0, le=1000, description="Of the share of required calls that were made.")
    plan: float = Field(1.0, ge=0, le=1000, description="Of the share of the plan that was followed.")
    answer: float = Field(1.0, ge=0, le=1000, description="Of the final answer's score.")


class TrajectoryOptions(LimitedOptions):
    """How calls are written, and what is asked of them."""

    form: Literal["tags", "openai"] = Field(
        "tags",
        description="tags: JSON objects in tags, as Hermes and Qwen models write. openai: the completion is a JSON list of messages.",
    )
    call_tag: Tag = Field("tool_call", description="Tag of a call.")
    response_tag: Tag = Field("tool_response", description="Tag of a tool's response.")
    tools: dict[str, dict[str, Any]] = Field(
        default_factory=dict, max_length=256, description="The tools: name to JSON schema of the arguments. Empty: any tool, any arguments."
    )
    forbidden: tuple[str, ...] = Field((), description="Tools that must not be called.")
    max_calls: int | None = Field(None, ge=0, description="Calls beyond which each one is a mistake.")
    repeats: bool = Field(True, description="Whether the same call with the same arguments may be made again.")
    recover: bool = Field(False, description="Whether another call must follow every response that is an error.")
    error_pattern: LinearPattern = Field(
        r'(?i)^\s*(?:\{\s*"(?:error|exception)"|error\b|traceback\b|exception\b)', description="RE2 pattern of a response that is an error."
    )
    required: tuple[WantedCall, ...] = Field((), max_length=64, description="Calls that must be made; arguments may be left out.")
    ordered: bool = Field(False, description="Whether the required calls must come in this order.")
    plan: Literal["none", "prefix", "subsequence"] = Field(
        "none",
        description='Whether the first reference is a plan, as JSON {"plan": [{"name": ..., "arguments": ...}], "answers": [...]}, and how '
        "it is compared: up to the first call that differs, or by the longest common subsequence.",
    )
    answer: AnswerCheck | None = Field(
        None, description="How the text behind the last call is held against the plan's answers, or else the references."
    )
    weights: Weights = Field(default_factory=Weights, description="How much each part of the score counts.")
    _schemas: dict[str, str] = PrivateAttr(default_factory=dict)

    @field_validator("tools")
    @classmethod
    def _schemas_are_read(cls, tools: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for name, schema in tools.items():
            try:
                schema_text(schema)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
        return tools

    @model_validator(mode="after")
    def _tags_differ(self) -> Self:
        if self.call_tag == self.response_tag:
            raise ValueError(f"response_tag: must be another tag than call_tag, is {self.response_tag!r} too")
        return self

    @model_validator(mode="after")
    def _some_weight(self) -> Self:
        weights = self.weights
        asked = (weights.required if self.required else 0, weights.plan if self.plan != "none" else 0, weights.answer if self.answer else 0)
        if not weights.calls and not any(asked):
            raise ValueError("weights: nothing that is checked has a weight")
        self._schemas.update({name: schema_text(schema) for name, schema in self.tools.items()})
        return self

    @property
    def rules(self) -> CallRules:
        """What every call must keep."""
        return CallRules(self._schemas, frozenset(self.forbidden), self.max_calls, self.repeats, self.recover, self.error_pattern)


class Gold(BaseModel):
    """What a reference says: a plan, and gold answers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    plan: tuple[WantedCall, ...] = Field(min_length=1, max_length=256)
    answers: tuple[str, ...] | None = None
    """None: the other references are the answers."""


class _Score(NamedTuple):
    name: str
    score: float
    weight: float
    evidence: str


def verify(sample: SampleFields, options: TrajectoryOptions) -> Verdict | NoVerdict:
    """INVALID_INPUT for an unreadable plan or step_starts; ABSTAINED when nothing was called and nothing else is checked."""
    plan: tuple[WantedCall, ...] = ()
    golds = sample.references
    if options.plan != "none":
        if not golds:
            return NoVerdict(Reason.NOT_APPLICABLE, f"plan is {options.plan} and the sample has no references")
        try:
            gold = _gold(golds[0])
        except ValueError as error:
            return NoVerdict(Reason.INVALID_INPUT, f"references[0]: {error}")
        plan, golds = gold.plan, golds[1:] if gold.answers is None else gold.answers
    if options.answer is not None and not golds:
        return NoVerdict(Reason.NOT_APPLICABLE, "answer is to be checked and the sample has no gold answer")
    starts = sample.step_starts
    if any(not 0 <= start <= len(sample.completion) for start in starts) or list(starts) != sorted(set(starts)):
        return NoVerdict(
            Reason.INVALID_INPUT, f"step_starts: must ascend and lie in the completion of {len(sample.completion)} code points"
        )
    read = (
        from_tags(sample.completion, options.call_tag, options.response_tag) if options.form == "tags" else from_messages(sample.completion)
    )
    if len(read.calls) > MOST_CALLS:
        return Verdict(Status.FAIL, 0.0, f"{len(read.calls)} calls; more than {MOST_CALLS} are not read", category="too-many-calls")
    answer = _answer(options.answer, read, golds)
    if isinstance(answer, NoVerdict):
        return answer
    return _judged(read, options, plan, answer, starts)


def _answer(check: AnswerCheck | None, read: Trajectory, golds: tuple[str, ...]) -> Verdict | NoVerdict | None:
    if check is None:
        return None
    if not read.answer:
        return Verdict(Status.FAIL, 0.0, "no answer behind the last call", category="no-answer")
    result = check.verify(read.answer, golds)
    if isinstance(result, Verdict) and result.status is not Status.PASS:
        return replace(result, category="wrong-answer")
    return result


def _judged(
    read: Trajectory, options: TrajectoryOptions, plan: tuple[WantedCall, ...], answer: Verdict | None, starts: tuple[int, ...]
) -> Verdict | NoVerdict:
    weights, calls = options.weights, read.calls
    wrong = mistakes(calls, options.rules)
    scores: list[_Score] = []
    failures: list[tuple[Mistake, tuple[int, int] | None]] = [
        (mistake, call.span) for call, mistake in zip(calls, wrong, strict=True) if mistake
    ]
    if calls:
        right = wrong.count(None)
        scores.append(_Score("calls", right / len(calls), weights.calls, f"{right} of {len(calls)} calls without a mistake"))
    if options.required:
        met = (in_order if options.ordered else in_any_order)(options.required, calls)
        made = sum(number is not None for number in met)
        scores.append(_Score("required", made / len(met), weights.required, f"{made} of {len(met)} required calls made"))
        if made < len(met):
            failures.append((Mistake("missing-call", f"{options.required[met.index(None)]} was not made"), None))
    followed: set[int] | None = None
    if plan:
        met = (as_prefix if options.plan == "prefix" else in_order)(plan, calls)
        followed = {number for number in met if number is not None}
        evidence = f"{len(followed)} of {len(plan)} planned calls in {len(calls)} ({options.plan})"
        scores.append(_Score("plan", len(followed) / max(len(plan), len(calls)), weights.plan, evidence))
        if len(followed) < max(len(plan), len(calls)):
            missed = f"{plan[met.index(None)]} was not made there" if None in met else "calls that the plan does not have"
            failures.append((Mistake("off-plan", missed), None))
    if answer is not None:
        scores.append(_Score("answer", answer.score, weights.answer, f"answer: {answer.evidence}"))
        if answer.score < 1:
            failures.append((Mistake(answer.category, answer.evidence), read.answer_span))
    counted = [one for one in scores if one.weight]
    if not counted:
        return NoVerdict(Reason.ABSTAINED, "nothing was called, and nothing else is checked")
    total = sum(one.score * one.weight for one in counted) / sum(one.weight for one in counted)
    total = 1.0 if all(one.score == 1 for one in counted) else min(total, NEARLY_ONE)
    steps = step_verdicts(_parts(read, wrong, followed, answer), starts)
    evidence = "; ".join(one.evidence for one in scores)
    extracted = answer.extracted_answer if answer else ""
    if total == 1:
        return Verdict(Status.PASS, 1.0, evidence, extracted, steps=steps)
    first, span = failures[0]
    shown = f"{evidence}; first: {first.category}: {first.evidence}"
    return Verdict(Status.PARTIAL if total else Status.FAIL, total, shown, extracted, span, steps=steps, category=first.category)


def _parts(read: Trajectory, wrong: Sequence[Mistake | None], followed: set[int] | None, answer: Verdict | None) -> list[Part]:
    parts = []
    for number, (call, mistake) in enumerate(zip(read.calls, wrong, strict=True)):
        start = None if call.span is None else call.span[0]
        if mistake:
            parts.append(Part(start, 0.0, f"{mistake.category}: {mistake.evidence}"))
        elif followed is not None and number not in followed:
            parts.append(Part(start, 0.0, f"off-plan: {call.name}"))
        else:
            parts.append(Part(start, 1.0, f"{call.name}: a right call"))
    if answer is not None:
        parts.append(Part(read.answer_span[0] if read.answer_span else None, answer.score, f"answer: {answer.evidence}"))
    return parts


@lru_cache(maxsize=4096)
def _gold(reference: str) -> Gold:
    value = read_json(reference)
    try:
        return Gold.model_validate({"plan": value} if isinstance(value, list) else value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ValueError(f"{'.'.join(map(str, first['loc'])) or 'plan'}: {first['msg']}") from error


VERIFIER = Verifier(
    "trajectory",
    "The tool calls of the completion are well formed and the wanted ones, its errors are recovered from, and its final answer is right.",
    ("completion.text",),
    TrajectoryOptions,
    verify,
)
