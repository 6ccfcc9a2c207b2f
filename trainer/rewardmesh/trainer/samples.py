"""What the trainer knows of one training sample: the rollout, its scores, and the group of rollouts of one prompt.

All three are immutable and check themselves when made: a wrong length or a score that is neither a value nor an absence is
a ValueError naming the field, never a silent zero further on. They compare by identity (they hold arrays).
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self, get_args

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int32]
FloatArray = npt.NDArray[np.float32]

FINISH_REASONS = ("stop", "length", "aborted")
Source = Literal["policy", "reference", "checkpoint", "mixture", "greedy", "replay", "demonstration"]
SOURCES: tuple[Source, ...] = get_args(Source)


@dataclass(frozen=True, eq=False)
class Rollout:
    """One completion as the generator sampled it; token ids are carried end to end and never re-tokenised.

    `prompt_ids` int32[n], n >= 1; `completion_ids` int32[m], with the end-of-sequence token when finish_reason is "stop";
    `sampling_log_probs` float32[m], natural logs under the policy `policy_version` at the sampling temperature.
    An "aborted" rollout may have no completion tokens; it is never trained on.

    `source` says who wrote it: the "policy" of the step; the "reference", a "checkpoint" (an earlier policy) or a "mixture" of policy and
    reference, with the log-probs of that distribution; "greedy" decoding of the policy (log-probs at temperature 1); "replay", a rollout of
    an earlier step with the log-probs of then; "demonstration", an answer given with the prompt, which nobody sampled: its log-probs are
    those of the step's policy, so that its importance ratio is 1. For all of them pi / exp(sampling_log_probs) is the importance ratio that
    a policy-gradient loss needs, and only for "policy" is their difference to the reference an estimate of the policy's KL.
    Where a completion goes on from a given beginning of an answer, the last `prefix_tokens` of `prompt_ids` are that beginning, and `text`
    is the whole answer.
    """

    id: str
    group_id: str
    prompt_ids: IntArray
    completion_ids: IntArray
    sampling_log_probs: FloatArray
    text: str
    prompt_text: str
    finish_reason: str
    policy_version: int
    source: Source = "policy"
    prefix_tokens: int = 0

    def __post_init__(self) -> None:
        if not self.id:
            raise ValueError("id must not be empty")
        if self.finish_reason not in FINISH_REASONS:
            raise ValueError(f"finish_reason of {self.id} is {self.finish_reason!r}, known: {', '.join(FINISH_REASONS)}")
        if self.source not in SOURCES:
            raise ValueError(f"source of {self.id} is {self.source!r}, known: {', '.join(SOURCES)}")
        if not 0 <= self.prefix_tokens < max(len(self.prompt_ids), 1):
            raise ValueError(f"prefix_tokens of {self.id} is {self.prefix_tokens} for {len(self.prompt_ids)} prompt_ids")
        for name, kind in (("prompt_ids", np.int32), ("completion_ids", np.int32), ("sampling_log_probs", np.float32)):
            array = np.ascontiguousarray(getattr(self, name), dtype=kind)
            if array.ndim != 1:
                raise ValueError(f"{name} of {self.id} must have one dimension, it has shape {array.shape}")
            object.__setattr__(self, name, array)
        if self.prompt_ids.size == 0:
            raise ValueError(f"prompt_ids of {self.id} must not be empty")
        if self.completion_ids.size != self.sampling_log_probs.size:
            raise ValueError(
                f"sampling_log_probs of {self.id} has {self.sampling_log_probs.size} values for {self.completion_ids.size} completion_ids"
            )
        if not np.isfinite(self.sampling_log_probs).all():
            raise ValueError(f"sampling_log_probs of {self.id} must be finite")

    @property
    def length(self) -> int:
        """Completion tokens."""
        return int(self.completion_ids.size)


@dataclass(frozen=True)
class RewardSpan:
    """A finite reward for the completion tokens start:end, 0 <= start < end, on the reward's scale."""

    start: int
    end: int
    value: float

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end:
            raise ValueError(f"a reward span must have 0 <= start < end, got {self.start}:{self.end}")
        if not math.isfinite(self.value):
            raise ValueError(f"the value of reward span {self.start}:{self.end} must be finite, got {self.value}")


@dataclass(frozen=True, eq=False)
class Scores:
    """What the mesh said of one rollout: a composed reward, or the name of the reason for its absence; never both, never neither.

    `components` holds every signal's value (None where absent, with its reason name in `component_absences`), `advice` what the
    reward program asks the trainer to do about an absence, `provenance` per signal where the value came from. `token_rewards`
    float32[m], one value a completion token, and `spans` are None where nobody gave any; no span at all is the answer that no part
    of the completion stands out. `spreads` per signal the standard deviation over the members of its ensemble, where it has one.
    """

    reward: float | None
    absence: str | None = None
    advice: str = ""
    components: Mapping[str, float | None] = field(default_factory=dict)
    component_absences: Mapping[str, str] = field(default_factory=dict)
    provenance: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    token_rewards: FloatArray | None = None
    spans: tuple[RewardSpan, ...] | None = None
    spreads: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.reward is None) == (self.absence is None):
            raise ValueError(f"exactly one of reward and absence must be given, got reward={self.reward}, absence={self.absence}")
        if self.reward is not None and not math.isfinite(self.reward):
            raise ValueError(f"reward must be finite, got {self.reward}")
        if self.absence is not None and not self.absence:
            raise ValueError("absence must name its reason")
        if self.token_rewards is not None:
            values = np.ascontiguousarray(self.token_rewards, dtype=np.float32)
            if values.ndim != 1 or not np.isfinite(values).all():
                raise ValueError("token_rewards must be finite and have one dimension; give None where they are absent")
            object.__setattr__(self, "token_rewards", values)


@dataclass(frozen=True, eq=False)
class Group:
    """All rollouts of one prompt with their scores, in one order.

    `preferences` float64[k, k]: entry (i, j) is the judge's probability that rollout i is better than j, NaN where absent;
    the diagonal is ignored. `reference_log_probs`: per rollout float32[m] under the reference policy, or None where absent
    (an empty tuple means none at all). `prompt_id` is that of the prompt in its file, the same in every step.
    """

    id: str
    rollouts: tuple[Rollout, ...]
    scores: tuple[Scores, ...]
    preferences: npt.NDArray[Any] | None = None
    reference_log_probs: tuple[FloatArray | None, ...] = ()
    references: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    prompt_id: str = ""

    def __post_init__(self) -> None:
        count = len(self.rollouts)
        if count == 0:
            raise ValueError(f"rollouts of group {self.id} must not be empty")
        if len(self.scores) != count:
            raise ValueError(f"scores of group {self.id} has {len(self.scores)} entries for {count} rollouts")
        if len({rollout.id for rollout in self.rollouts}) != count:
            raise ValueError(f"rollouts of group {self.id} must have distinct ids")
        for rollout in self.rollouts:
            if rollout.group_id != self.id:
                raise ValueError(f"group_id of rollout {rollout.id} is {rollout.group_id!r}, its group is {self.id!r}")
        for rollout, scores in zip(self.rollouts, self.scores, strict=True):
            _check_dense(rollout, scores)
        if not self.reference_log_probs:
            object.__setattr__(self, "reference_log_probs", (None,) * count)
        self._check_references(count)
        if self.preferences is not None:
            self._check_preferences(self.preferences, count)

    def take(self, indices: Sequence[int]) -> Self:
        """The same group with only the rollouts at `indices`, in that order; ValueError for none."""
        preferences = None if self.preferences is None else self.preferences[np.ix_(indices, indices)]
        return replace(
            self,
            rollouts=tuple(self.rollouts[i] for i in indices),
            scores=tuple(self.scores[i] for i in indices),
            preferences=preferences,
            reference_log_probs=tuple(self.reference_log_probs[i] for i in indices),
        )

    def _check_references(self, count: int) -> None:
        if len(self.reference_log_probs) != count:
            raise ValueError(f"reference_log_probs of group {self.id} has {len(self.reference_log_probs)} entries for {count} rollouts")
        checked: list[FloatArray | None] = []
        for rollout, given in zip(self.rollouts, self.reference_log_probs, strict=True):
            values = None if given is None else np.ascontiguousarray(given, dtype=np.float32)
            if values is not None and values.shape != (rollout.length,):
                raise ValueError(f"reference_log_probs of {rollout.id} has shape {values.shape} for {rollout.length} completion_ids")
            if values is not None and not np.isfinite(values).all():
                raise ValueError(f"reference_log_probs of {rollout.id} must be finite; give None where they are absent")
            checked.append(values)
        object.__setattr__(self, "reference_log_probs", tuple(checked))

    def _check_preferences(self, preferences: npt.NDArray[Any], count: int) -> None:
        matrix = np.array(preferences, dtype=np.float64)
        if matrix.shape != (count, count):
            raise ValueError(f"preferences of group {self.id} has shape {matrix.shape} for {count} rollouts")
        known = matrix[~np.isnan(matrix)]
        if known.size and (known.min() < 0 or known.max() > 1):
            raise ValueError(f"preferences of group {self.id} must lie in [0, 1] or be NaN")
        object.__setattr__(self, "preferences", matrix)


def _check_dense(rollout: Rollout, scores: Scores) -> None:
    """Token rewards and spans of a rollout must fit its completion."""
    if scores.token_rewards is not None and scores.token_rewards.size != rollout.length:
        raise ValueError(f"token_rewards of {rollout.id} has {scores.token_rewards.size} values for {rollout.length} completion_ids")
    for span in scores.spans or ():
        if span.end > rollout.length:
            raise ValueError(f"spans of {rollout.id} has {span.start}:{span.end} for {rollout.length} completion_ids")


def all_rollouts(groups: Sequence[Group]) -> tuple[Rollout, ...]:
    """Every rollout of `groups`, in order: the layout of the per-token values that go with them. ValueError for ids met twice."""
    rollouts = tuple(rollout for group in groups for rollout in group.rollouts)
    repeated = [id_ for id_, count in Counter(rollout.id for rollout in rollouts).items() if count > 1]
    if repeated:
        raise ValueError(f"rollout ids must be distinct over the groups of a batch, met twice: {', '.join(repeated[:5])}")
    return rollouts
