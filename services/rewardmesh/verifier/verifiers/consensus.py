"""Consensus: whether a completion's answer is the one that most of its group give. No reference is needed.

The answers of a group are sorted into classes of equal ones, as the math verifier finds and compares them (0.5 is 1/2) or as texts, and
the class with the most votes wins: self-consistency (Wang et al. 2022, arXiv 2203.11171) as a reward. A vote may have a weight: the
probability an answer was sampled with, a stated confidence, or the self-consistency of the policy that wrote it, as in RLCCF (Yuan et
al. 2025, arXiv 2508.12338); there every policy writes equally many answers, here each policy's votes are shared among its answers.

A tie, too few answers or too small a lead cannot tell: ABSTAINED. A completion without an answer does not vote.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

from pydantic import Field, model_validator

from rewardmesh.verifier.answers import find_answers
from rewardmesh.verifier.math import Gold, compare
from rewardmesh.verifier.math.gold import gold_of
from rewardmesh.verifier.normalisation import NormalisationOptions, shown
from rewardmesh.verifier.registry import LimitedOptions, judging_groups
from rewardmesh.verifier.verdicts import NoVerdict, Reason, SampleFields, Status, Verdict, failed, passed

SHOWN = 5
"""Classes of answers that evidence lists."""
_EQUAL = 1e-9
"""Relative difference up to which two weights are a tie: they are sums of floats."""


class ConsensusOptions(LimitedOptions, NormalisationOptions):
    """How answers are found, compared and counted. Normalisation is for `extract: exact`."""

    extract: Literal["math", "exact"] = Field(
        "math", description="math: a final answer, as the math verifier reads it. exact: the whole completion, or what follows the marker."
    )
    answer_marker: str | None = Field(None, min_length=1, description="Only text behind its last occurrence is an answer.")
    weights: Literal["none", "log_prob", "tag", "policy"] = Field(
        "none",
        description="none: one vote an answer. log_prob: exp(mean sampling log-probability). tag: a number in the tag `confidence_tag`. "
        "policy: the self-consistency of its policy, shared among that policy's answers.",
    )
    confidence_tag: str = Field("confidence", min_length=1, description="Name of the tag that holds a weight of at least 0.")
    score: Literal["vote", "share"] = Field(
        "vote", description="vote: PASS for the winning answer, FAIL for others. share: the share of all votes that the answer has."
    )
    minimum_size: int = Field(2, ge=1, description="Answers that have to vote; with fewer nobody is judged.")
    minimum_share: float = Field(0.0, ge=0, le=1, description="Share of the votes that the strongest answer has to have.")
    on_missing_answer: Literal["fail", "absent"] = Field("fail", description="What a completion without a readable answer gets.")

    @model_validator(mode="after")
    def _markers(self) -> Self:
        normalised = {"ignore_case", "remove_punctuation", "remove_articles", "whitespace"} & self.model_fields_set
        if self.extract == "math" and normalised:
            raise ValueError(f"{', '.join(sorted(normalised))}: only for extract: exact")
        return self


@dataclass(frozen=True, slots=True)
class Ballot:
    """What one completion votes for."""

    answer: str
    """As it is reported."""
    kind: int
    """Its class of equal answers."""
    span: tuple[int, int]
    weight: float


def verify_group(samples: Sequence[SampleFields], options: ConsensusOptions) -> list[Verdict | NoVerdict]:
    """One result a sample. INVALID_INPUT or NOT_APPLICABLE when its weight is unreadable or not there: it does not vote then."""
    extract = _Texts(options) if options.extract == "exact" else _Formulas(options)
    ballots = [_ballot(extract, sample, options) for sample in samples]
    if options.weights == "policy":
        ballots = _by_policy(samples, ballots)
    votes: dict[int, float] = defaultdict(float)
    names: dict[int, str] = {}
    for ballot in ballots:
        if isinstance(ballot, Ballot):
            votes[ballot.kind] += ballot.weight
            names.setdefault(ballot.kind, ballot.answer)
    count = sum(isinstance(ballot, Ballot) for ballot in ballots)
    ranked = sorted(votes, key=votes.__getitem__, reverse=True)
    tally = ", ".join(f"{shown(names[kind])} {votes[kind]:.4g}" for kind in ranked[:SHOWN]) + (", …" if len(ranked) > SHOWN else "")
    undecided = _undecided([votes[kind] for kind in ranked], count, options)
    return [
        ballot
        if not isinstance(ballot, Ballot)
        else NoVerdict(Reason.ABSTAINED, f"{undecided}; votes: {tally}")
        if undecided
        else _verdict(ballot, votes, ranked[0], tally, options)
        for ballot in ballots
    ]


class _Formulas:
    """Classes of answers that the math verifier calls equal; each is compared with the first of every class."""

    def __init__(self, options: ConsensusOptions) -> None:
        self._marker = options.answer_marker
        self._classes: list[Gold] = []

    def __call__(self, completion: str) -> tuple[str, int, tuple[int, int]] | None:
        for answer in find_answers(completion, self._marker):
            gold = gold_of(answer)
            # Without a marker a few words are prose, not an answer.
            if gold is None or (gold.words and not answer.marked):
                continue
            equal = ((match := compare(other, answer)) is not None and match.score == 1 for other in self._classes)
            kind = next((kind for kind, same in enumerate(equal) if same), len(self._classes))
            if kind == len(self._classes):
                self._classes.append(gold)
            return gold.canonical, kind, (answer.start, answer.end)
        return None


class _Texts:
    """Classes of texts that are the same after normalisation."""

    def __init__(self, options: ConsensusOptions) -> None:
        self._options = options
        self._classes: dict[str, int] = {}

    def __call__(self, completion: str) -> tuple[str, int, tuple[int, int]] | None:
        marker = self._options.answer_marker
        start = 0
        if marker is not None:
            at = completion.rfind(marker)
            if at < 0:
                return None
            start = at + len(marker)
        answer = self._options.normalise(completion[start:])
        return (answer, self._classes.setdefault(answer, len(self._classes)), (start, len(completion))) if answer else None


def _ballot(extract: _Formulas | _Texts, sample: SampleFields, options: ConsensusOptions) -> Ballot | Verdict | NoVerdict:
    found = extract(sample.completion)
    if found is None:
        detail = "the completion states no answer that can be read"
        return failed(detail) if options.on_missing_answer == "fail" else NoVerdict(Reason.UNPARSABLE, detail)
    weight = _weight(sample, options)
    return weight if isinstance(weight, NoVerdict) else Ballot(*found, weight)


def _weight(sample: SampleFields, options: ConsensusOptions) -> float | NoVerdict:
    if options.weights == "log_prob":
        mean = sample.more.mean_log_prob
        if mean is None:
            return NoVerdict(Reason.NOT_APPLICABLE, "weights are log_prob and completion.sampling_log_probs is not set")
        return math.exp(min(mean, 0.0))
    if options.weights == "tag":
        field, text = f"tags[{options.confidence_tag!r}]", sample.tags.get(options.confidence_tag)
        if text is None:
            return NoVerdict(Reason.NOT_APPLICABLE, f"weights are tag and {field} is not set")
        try:
            weight = float(text)
        except ValueError:
            weight = math.nan
        return weight if 0 <= weight < math.inf else NoVerdict(Reason.INVALID_INPUT, f"{field}: {text[:50]!r} is no number of at least 0")
    if options.weights == "policy" and not sample.more.policy:
        return NoVerdict(Reason.NOT_APPLICABLE, "weights are policy and completion.policy is not set")
    return 1.0


def _by_policy(samples: Sequence[SampleFields], ballots: list[Ballot | Verdict | NoVerdict]) -> list[Ballot | Verdict | NoVerdict]:
    """Weights by policy: the share that its most frequent answer has of all it wrote, divided among its votes."""
    kinds: dict[str, Counter[int]] = defaultdict(Counter)
    written = Counter(sample.more.policy for sample in samples)
    for sample, ballot in zip(samples, ballots, strict=True):
        if isinstance(ballot, Ballot):
            kinds[sample.more.policy][ballot.kind] += 1
    weights = {policy: max(found.values()) / written[policy] / found.total() for policy, found in kinds.items()}
    return [
        Ballot(ballot.answer, ballot.kind, ballot.span, weights[sample.more.policy]) if isinstance(ballot, Ballot) else ballot
        for sample, ballot in zip(samples, ballots, strict=True)
    ]


def _undecided(votes: Sequence[float], count: int, options: ConsensusOptions) -> str:
    """Why the votes (greatest first, from `count` answers) decide nothing; empty when they do."""
    if count < options.minimum_size:
        return f"{count} answers vote, {options.minimum_size} are needed"
    total = math.fsum(votes)
    if total == 0:
        return "every vote has weight 0"
    if votes[0] / total < options.minimum_share * (1 - _EQUAL):
        return f"the strongest answer has {votes[0] / total:.3g} of the votes, {options.minimum_share:g} is needed"
    if options.score == "vote" and len(votes) > 1 and votes[0] - votes[1] <= _EQUAL * votes[0]:
        return "a tie"
    return ""


def _verdict(ballot: Ballot, votes: dict[int, float], winner: int, tally: str, options: ConsensusOptions) -> Verdict:
    share = votes[ballot.kind] / math.fsum(votes.values())
    evidence = f"answer {shown(ballot.answer)} has {share:.3g} of the votes: {tally}"
    extracted = ballot.answer if len(ballot.answer) <= 512 else ""
    if options.score == "share" and 0 < share < 1:
        return Verdict(Status.PARTIAL, share, evidence, extracted, ballot.span)
    right = ballot.kind == winner if options.score == "vote" else share > 0
    return (passed if right else failed)(evidence, extracted_answer=extracted, span=ballot.span)


VERIFIER = judging_groups(
    "consensus",
    "The completion's answer is the one that most answers of its group give.",
    ("completion.text",),
    ConsensusOptions,
    verify_group,
    reads=("completion.policy", "completion.sampling_log_probs"),
)
