"""What the gateway reads and writes as JSON. Names are those of the gRPC messages; enum values are theirs without the prefix."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from rewardmesh.serving.http import JsonModel

_LONGEST_TIMEOUT_S = 86_400.0

Timeout = Annotated[
    float,
    Field(gt=0, le=_LONGEST_TIMEOUT_S, description="time the call may take, seconds; signals that need longer are absent with DEADLINE"),
]


class Message(JsonModel):
    """One message of a dialogue."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    name: str = Field("", description="name of the speaker or tool")


def _dialogue(prompt: Any) -> Any:
    if isinstance(prompt, str):
        return [Message(role="user", content=prompt)]
    if not isinstance(prompt, list):
        raise ValueError("must be a text or a list of messages")
    return prompt


Prompt = Annotated[
    list[Message],
    BeforeValidator(_dialogue, json_schema_input_type=str | list[Message]),
    Field(description="a text (one user message) or a dialogue"),
]


class Criterion(JsonModel):
    """One thing to judge an answer by."""

    id: str
    text: str
    weight: float = Field(1.0, gt=0, le=1e6)


class Context(JsonModel):
    """What the scorers may know beyond prompt and completion."""

    criteria: list[Criterion] = Field(default_factory=list)
    principles: list[str] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list, description="notes that the policy never saw")
    user_id: str = ""
    user_group_id: str = ""


class Sample(JsonModel):
    """A prompt with one answer."""

    id: str = Field("", description="unique within the call; made from the place (0, 1, ...) when left out")
    prompt: Prompt
    completion: str
    group_id: str = Field("", description="answers with the same group id answer the same prompt and are judged against each other")
    references: list[str] = Field(default_factory=list, description="gold answers, best first")
    tags: dict[str, str] = Field(default_factory=dict, description="labels that programs route by")
    finish_reason: Literal["", "stop", "length", "aborted"] = ""
    context: Context | None = None


class Pin(JsonModel):
    """The version of a model that must answer for a signal."""

    version: int = Field(0, ge=0, le=2**63 - 1)
    fingerprint: str = ""


class EvaluateBody(JsonModel):
    """Samples to evaluate with a reward program."""

    program: str = Field("", description="name of the program; may be left out when the gateway has only one")
    samples: list[Sample]
    timeout_seconds: Timeout | None = None
    program_fingerprint: str = Field("", description="expected fingerprint; another one is refused")
    pins: dict[str, Pin] = Field(default_factory=dict, description="by signal")


class Absence(JsonModel):
    """Why there is no value. It is never 0."""

    reason: str = Field(description="INFRASTRUCTURE, DEADLINE, OVERLOADED, INVALID_INPUT, TOO_LONG, NOT_APPLICABLE, UNPARSABLE, ...")
    detail: str
    retryable: bool
    retry_after_seconds: float | None


class Model(JsonModel):
    """One version of one model."""

    name: str
    version: int
    fingerprint: str


class Provenance(JsonModel):
    """Where a value came from and what it cost."""

    service: str
    model: Model | None
    replica: str
    cached: bool
    queue_seconds: float | None
    compute_seconds: float | None
    truncated: bool
    cost_usd: float | None = Field(description="US dollars by the service's prices; null where none is configured")


class Component(JsonModel):
    """What one signal said of one sample."""

    value: float | None = Field(description="what entered the program, after a fallback")
    absence: Absence | None
    applied: str | None = Field(description="what the program did about the absence: DROP, WAIT, FALLBACK, ABORT, RESAMPLE")
    wait_seconds: float | None
    attempts: int
    provenance: Provenance | None
    details: dict[str, Any] = Field(
        description="objectives of a reward model, a verdict's evidence, grades, a critique with its spans, a win rate"
    )


class Evaluation(JsonModel):
    """What came of one sample: a value, or an absence."""

    sample_id: str
    value: float | None
    absence: Absence | None
    advice: str | None = Field(description="what to do about an absence: DROP, WAIT, ABORT, RESAMPLE")
    components: dict[str, Component]
    provenance: Provenance


class GroupPreferences(JsonModel):
    """Pairwise probabilities of one group: row i, column j is the probability that i is better than j; null where there is none."""

    group_id: str
    signal: str
    sample_ids: list[str]
    matrix: list[list[float | None]]


class EvaluateReply(JsonModel):
    """One evaluation a sample, in the request's order."""

    evaluations: list[Evaluation]
    groups: list[GroupPreferences]
    program_fingerprint: str


class SelectBestReply(JsonModel):
    """The best sample of a group; null when none has a value."""

    best_sample_id: str | None
    evaluations: list[Evaluation]


class Scale(JsonModel):
    """What kind of number a value is; bounds only for BOUNDED."""

    kind: str
    min: float | None
    max: float | None


class Signal(JsonModel):
    """One signal of a program."""

    name: str
    kind: str
    target: str
    scale: Scale
    on_absence: str
    fallback: float | None
    timeout_seconds: float | None


class ProgramReply(JsonModel):
    """What a program does."""

    name: str
    fingerprint: str
    yaml: str
    signals: list[Signal]
    scale: Scale


class ProgramsReply(JsonModel):
    """Names of the programs, ascending."""

    programs: list[str]


class HealthReply(JsonModel):
    """SERVING, or NOT_SERVING (with status 503) while the server drains."""

    status: Literal["SERVING", "NOT_SERVING"]
