"""Which rollouts may teach anything: an absence, an aborted or empty completion, or a missing reference keeps one out, and says so."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from rewardmesh.trainer.samples import FloatArray, Group, Rollout


class LeftOut:
    """Counts what a credit leaves out, and why."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.rollouts: dict[str, str] = {}

    def sample(self, rollout: Rollout, reason: str) -> None:
        """Leaves `rollout` out for `reason`."""
        self.counts[f"sample:{reason}"] += 1
        self.rollouts[rollout.id] = reason

    def group(self, reason: str) -> None:
        """Leaves a whole group out."""
        self.counts[f"group:{reason}"] += 1

    def pairs(self, reason: str, count: int) -> None:
        """Leaves `count` pairs out."""
        if count:
            self.counts[f"pair:{reason}"] += count


def admitted(group: Group, left_out: LeftOut, *, needs_reference: bool) -> list[int]:
    """Indices of the rollouts of `group` that may enter a loss; the others are entered in `left_out`."""
    kept: list[int] = []
    for index, (rollout, scores, reference) in enumerate(zip(group.rollouts, group.scores, group.reference_log_probs, strict=True)):
        if scores.absence is not None:
            left_out.sample(rollout, f"absent:{scores.absence}")
        elif rollout.finish_reason == "aborted":
            left_out.sample(rollout, "aborted")
        elif rollout.length == 0:
            left_out.sample(rollout, "empty_completion")
        elif needs_reference and reference is None:
            left_out.sample(rollout, "no_reference_log_probs")
        else:
            kept.append(index)
    return kept


def concatenated(arrays: Sequence[FloatArray]) -> FloatArray:
    """float32[N] of per-token arrays end to end; empty for none."""
    return np.concatenate(arrays) if arrays else np.zeros(0, dtype=np.float32)
