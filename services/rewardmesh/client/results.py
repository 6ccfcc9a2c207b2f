"""What calls return: small frozen values with either `value` or `absence`, and the whole protobuf in `message`.

An absent score is never 0: `value` is None and `absence` says why.
"""

from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from google.protobuf.duration_pb2 import Duration

from rewardmesh.client.arrays import unpack_floats, unpack_ints
from rewardmesh.v1 import (
    common_pb2,
    generation_service_pb2,
    judge_service_pb2,
    log_prob_service_pb2,
    mesh_service_pb2,
    verifier_service_pb2,
)


class AbsenceReason(StrEnum):
    """Why there is no score; the names of the wire's enum without its prefix."""

    INFRASTRUCTURE = "INFRASTRUCTURE"
    DEADLINE = "DEADLINE"
    OVERLOADED = "OVERLOADED"
    INVALID_INPUT = "INVALID_INPUT"
    TOO_LONG = "TOO_LONG"
    NOT_APPLICABLE = "NOT_APPLICABLE"
    UNPARSABLE = "UNPARSABLE"
    ABSTAINED = "ABSTAINED"
    NON_FINITE = "NON_FINITE"


@dataclass(frozen=True)
class Absence:
    """Why there is no score, whether asking again may help, and after how many seconds (None: unknown)."""

    reason: AbsenceReason
    detail: str
    retryable: bool = False
    retry_after_s: float | None = None

    @classmethod
    def from_proto(cls, message: common_pb2.Absence) -> "Absence":
        """Read an absence; a reason this client does not know raises ValueError."""
        try:
            name = common_pb2.AbsenceReason.Name(message.reason)
        except ValueError:
            raise ValueError(f"unknown absence reason {message.reason}: the server is newer than this client") from None
        reason = AbsenceReason(name.removeprefix("ABSENCE_REASON_"))
        wait_s = message.retry_after.ToNanoseconds() / 1e9 if message.HasField("retry_after") else None
        return cls(reason, message.detail, message.retryable, wait_s)

    def to_proto(self) -> common_pb2.Absence:
        """Write it as the wire's message."""
        retry_after = None
        if self.retry_after_s is not None:
            retry_after = Duration()
            retry_after.FromNanoseconds(round(self.retry_after_s * 1e9))
        return common_pb2.Absence(
            reason=common_pb2.AbsenceReason.Value(f"ABSENCE_REASON_{self.reason}"),
            detail=self.detail,
            retryable=self.retryable,
            retry_after=retry_after,
        )


@dataclass(frozen=True)
class Score:
    """A sample's reward, on `message.reward.scale`, with its named objectives."""

    sample_id: str
    value: float | None
    absence: Absence | None
    objectives: Mapping[str, float]
    message: common_pb2.Outcome

    @property
    def provenance(self) -> common_pb2.Provenance:
        """Which model and replica answered, and at what cost."""
        return self.message.provenance

    @classmethod
    def from_proto(cls, message: common_pb2.Outcome) -> "Score":
        absence = _absence(message, "reward")
        objectives = {objective.name: objective.value for objective in message.reward.objectives}
        return cls(message.sample_id, None if absence else message.reward.value, absence, MappingProxyType(objectives), message)


@dataclass(frozen=True)
class Verdict:
    """A verifier's verdict: `value` in [0, 1], `status` PASS, FAIL or PARTIAL (None when absent)."""

    sample_id: str
    value: float | None
    status: str | None
    absence: Absence | None
    message: verifier_service_pb2.VerdictOutcome

    @classmethod
    def from_proto(cls, message: verifier_service_pb2.VerdictOutcome) -> "Verdict":
        absence = _absence(message, "verdict")
        if absence:
            return cls(message.sample_id, None, None, absence, message)
        status = verifier_service_pb2.VerdictStatus.Name(message.verdict.status).removeprefix("VERDICT_STATUS_")
        return cls(message.sample_id, message.verdict.score, status, None, message)


@dataclass(frozen=True)
class Preference:
    """A judge's verdict on a pair: `value` is the probability that a is better, ties counted half."""

    pair_id: str
    value: float | None
    absence: Absence | None
    message: judge_service_pb2.PreferenceOutcome

    @classmethod
    def from_proto(cls, message: judge_service_pb2.PreferenceOutcome) -> "Preference":
        absence = _absence(message, "preference")
        return cls(message.pair_id, None if absence else message.preference.p_a, absence, message)


@dataclass(frozen=True)
class Grades:
    """A judge's grades: `value` is the total in [0, 1], `by_criterion` the scores by criterion id."""

    sample_id: str
    value: float | None
    absence: Absence | None
    by_criterion: Mapping[str, float]
    message: judge_service_pb2.GradesOutcome

    @classmethod
    def from_proto(cls, message: judge_service_pb2.GradesOutcome) -> "Grades":
        absence = _absence(message, "grades")
        by_criterion = {grade.criterion_id: grade.score for grade in message.grades.grades}
        return cls(message.sample_id, None if absence else message.grades.total, absence, MappingProxyType(by_criterion), message)


@dataclass(frozen=True)
class Ranking:
    """A judge's ranking of a group: `order` holds indices of its answers, best first, `scores` one value an answer as it was aggregated."""

    group_id: str
    order: tuple[int, ...] | None
    absence: Absence | None
    scores: tuple[float, ...]
    message: judge_service_pb2.RankingOutcome

    @classmethod
    def from_proto(cls, message: judge_service_pb2.RankingOutcome) -> "Ranking":
        absence = _absence(message, "ranking")
        order = None if absence else tuple(message.ranking.order)
        return cls(message.group_id, order, absence, tuple(message.ranking.scores), message)


@dataclass(frozen=True)
class Critique:
    """What a judge says of an answer: `text`, spans of it in `message.critique`, and what it would make of it in `revision` (if asked)."""

    sample_id: str
    text: str | None
    absence: Absence | None
    revision: str | None
    message: judge_service_pb2.CritiqueOutcome

    @classmethod
    def from_proto(cls, message: judge_service_pb2.CritiqueOutcome) -> "Critique":
        absence = _absence(message, "critique")
        critique = message.critique
        revision = critique.revised_completion.text if critique.HasField("revised_completion") else None
        return cls(message.sample_id, None if absence else critique.text, absence, revision, message)


@dataclass(frozen=True)
class TokenScores:
    """Log-probabilities of one sequence under one policy: `value` is their sum, `log_probs` one value a completion token (nats)."""

    sequence_id: str
    value: float | None
    absence: Absence | None
    log_probs: "array[float] | None"
    message: log_prob_service_pb2.TokenLogProbsOutcome

    @property
    def policy(self) -> common_pb2.ModelRef:
        """The policy (of an absence for the whole call: as it was asked for)."""
        return self.message.provenance.model

    @classmethod
    def from_proto(cls, message: log_prob_service_pb2.TokenLogProbsOutcome) -> "TokenScores":
        absence = _absence(message, "log_probs")
        if absence:
            return cls(message.sequence_id, None, absence, None, message)
        return cls(message.sequence_id, message.log_probs.sum, None, unpack_floats(message.log_probs.log_probs), message)


@dataclass(frozen=True)
class SuffixScores:
    """Log-likelihoods of all suffixes on one prefix, in the request's order (nats, or nats a token)."""

    prefix_id: str
    values: "array[float] | None"
    absence: Absence | None
    message: log_prob_service_pb2.SuffixScoresOutcome

    @classmethod
    def from_proto(cls, message: log_prob_service_pb2.SuffixScoresOutcome) -> "SuffixScores":
        absence = _absence(message, "scores")
        return cls(message.prefix_id, None if absence else unpack_floats(message.scores.values), absence, message)


@dataclass(frozen=True)
class NextLogits:
    """A next-token distribution: `logits` of the whole vocabulary, or of `token_ids` only, with the probability `remainder` of others."""

    logits: "array[float]"
    token_ids: "array[int] | None"
    remainder: float
    message: log_prob_service_pb2.StreamNextLogitsResponse

    @classmethod
    def from_proto(cls, message: log_prob_service_pb2.StreamNextLogitsResponse) -> "NextLogits":
        token_ids = unpack_ints(message.token_ids) if message.HasField("token_ids") else None
        logits = unpack_floats(message.logits)
        if token_ids is not None and len(token_ids) != len(logits):
            raise ValueError(f"{len(logits)} logits for {len(token_ids)} token ids")
        return cls(logits, token_ids, message.remainder, message)


@dataclass(frozen=True)
class Generation:
    """One completion of a prompt, `index` from 0; ids and log-probs are in `completion`."""

    prompt_id: str
    index: int
    completion: common_pb2.Completion | None
    absence: Absence | None
    message: generation_service_pb2.GenerateResponse

    @classmethod
    def from_proto(cls, message: generation_service_pb2.GenerateResponse) -> "Generation":
        absence = _absence(message, "completion")
        return cls(message.prompt_id, message.index, None if absence else message.completion, absence, message)


@dataclass(frozen=True)
class Component:
    """What one signal of a program said: the value that entered it (after a fallback), and the absence if the signal had none."""

    signal: str
    value: float | None
    absence: Absence | None
    message: mesh_service_pb2.Component

    @classmethod
    def from_proto(cls, message: mesh_service_pb2.Component) -> "Component":
        absence = Absence.from_proto(message.absence) if message.HasField("absence") else None
        return cls(message.signal, message.value if message.HasField("value") else None, absence, message)


@dataclass(frozen=True)
class Evaluation:
    """A program's composed reward of a sample, every component kept; `advice` (DROP, WAIT, ...) is "" unless the reward is absent."""

    sample_id: str
    value: float | None
    absence: Absence | None
    advice: str
    components: Mapping[str, Component]
    message: mesh_service_pb2.Evaluation

    @classmethod
    def from_proto(cls, message: mesh_service_pb2.Evaluation) -> "Evaluation":
        score = Score.from_proto(message.outcome)
        components = {component.signal: Component.from_proto(component) for component in message.components}
        advice = mesh_service_pb2.AbsencePolicy.Name(message.advice).removeprefix("ABSENCE_POLICY_")
        if advice == "UNSPECIFIED":
            advice = "DROP" if score.absence else ""
        return cls(score.sample_id, score.value, score.absence, advice, MappingProxyType(components), message)


@dataclass(frozen=True)
class Evaluations:
    """The evaluations of a call, in the order of its samples, and the pairwise verdicts of its groups."""

    evaluations: tuple[Evaluation, ...]
    groups: tuple[mesh_service_pb2.GroupPreferences, ...]
    program_fingerprint: str

    @classmethod
    def from_proto(cls, message: mesh_service_pb2.EvaluateResponse | mesh_service_pb2.StreamEvaluateResponse) -> "Evaluations":
        return cls(_evaluations(message.evaluations), tuple(message.groups), message.program_fingerprint)


@dataclass(frozen=True)
class Selection:
    """Best of n: the id of the best sample, None when no sample has a reward."""

    best_sample_id: str | None
    evaluations: tuple[Evaluation, ...]

    @classmethod
    def from_proto(cls, message: mesh_service_pb2.SelectBestResponse) -> "Selection":
        return cls(message.best_sample_id or None, _evaluations(message.evaluations))


_OneofOutcome = (
    common_pb2.Outcome
    | verifier_service_pb2.VerdictOutcome
    | judge_service_pb2.PreferenceOutcome
    | judge_service_pb2.GradesOutcome
    | judge_service_pb2.RankingOutcome
    | judge_service_pb2.CritiqueOutcome
    | log_prob_service_pb2.TokenLogProbsOutcome
    | log_prob_service_pb2.SuffixScoresOutcome
    | generation_service_pb2.GenerateResponse
)


def _absence(message: _OneofOutcome, present: str) -> Absence | None:
    which = message.WhichOneof("result")
    if which == present:
        return None
    if which != "absence":
        raise ValueError(f"a {type(message).__name__} holds neither {present} nor absence")
    return Absence.from_proto(message.absence)


def _evaluations(messages: Iterable[mesh_service_pb2.Evaluation]) -> tuple[Evaluation, ...]:
    return tuple(Evaluation.from_proto(message) for message in messages)
