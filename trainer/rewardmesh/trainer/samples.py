"""What the trainer knows of one training sample: the rollout, its scores, and the group of rollouts of one prompt.

All three are immutable and check themselves when made: a wrong length or a score that is neither a value nor an absence is
a ValueError naming the field, never a silent zero further on. They compare by identity (they hold arrays).
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int32]
FloatArray = npt.NDArray[np.float32]

FINISH_REASONS = ("stop", "length", "aborted")


@dataclass(frozen=True, eq=False)
class Rollout:
    """One completion as the generator sampled it; token ids are carried end to end and never re-tokenised.

    `prompt_ids` int32[n], n >= 1; `completion_ids` int32[m], with the end-of-sequence token when finish_reason is "stop";
    `sampling_log_probs` float32[m], natural logs under the policy `policy_version` at the sampling temperature.
    An "aborted" rollout may have no completion tokens; it is never trained on.
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

    def __post_init__(self) -> None:
        if not self.id:
            raise ValueError("id must not be empty")
        if self.finish_reason not in FINISH_REASONS:
            raise ValueError(f"finish_reason of {self.id} is {self.finish_reason!r}, known: {', '.join(FINISH_REASONS)}")
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
class Scores:
    """What the mesh said of one rollout: a composed reward, or the name of the reason for its absence; never both, never neither.

    `components` holds every signal's value (None where absent, with its reason name in `component_absences`), `advice` what the
    reward program asks the trainer to do about an absence, `provenance` per signal where the value came from.
    """

    reward: float | None
    absence: str | None = None
    advice: str = ""
    components: Mapping[str, float | None] = field(default_factory=dict)
    component_absences: Mapping[str, str] = field(default_factory=dict)
    provenance: Mapping[str, Mapping[str, object]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.reward is None) == (self.absence is None):
            raise ValueError(f"exactly one of reward and absence must be given, got reward={self.reward}, absence={self.absence}")
        if self.reward is not None and not math.isfinite(self.reward):
            raise ValueError(f"reward must be finite, got {self.reward}")
        if self.absence is not None and not self.absence:
            raise ValueError("absence must name its reason")


@dataclass(frozen=True, eq=False)
class Group:
    """All rollouts of one prompt with their scores, in one order.

    `preferences` float64[k, k]: entry (i, j) is the judge's probability that rollout i is better than j, NaN where absent;
    the diagonal is ignored. `reference_log_probs`: per rollout float32[m] under the reference policy, or None where absent
    (an empty tuple means none at all).
    """

    id: str
    rollouts: tuple[Rollout, ...]
    scores: tuple[Scores, ...]
    preferences: npt.NDArray[Any] | None = None
    reference_log_probs: tuple[FloatArray | None, ...] = ()
    references: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)

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
        if not self.reference_log_probs:
            object.__setattr__(self, "reference_log_probs", (None,) * count)
        self._check_references(count)
        if self.preferences is not None:
            self._check_preferences(self.preferences, count)

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


def all_rollouts(groups: Sequence[Group]) -> tuple[Rollout, ...]:
    """Every rollout of `groups`, in order: the layout of the per-token values that go with them. ValueError for ids met twice."""
    rollouts = tuple(rollout for group in groups for rollout in group.rollouts)
    repeated = [id_ for id_, count in Counter(rollout.id for rollout in rollouts).items() if count > 1]
    if repeated:
        raise ValueError(f"rollout ids must be distinct over the groups of a batch, met twice: {', '.join(repeated[:5])}")
    return rollouts
