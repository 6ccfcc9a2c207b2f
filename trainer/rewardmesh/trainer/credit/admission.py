"""Which rollouts may teach anything: an absence, an aborted or empty completion, or a missing reference keeps one out, and says so.

So does another model version: when a scoring service changes while a group is scored, its old and its new scores are on two scales.
"""

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
    """Indices of the rollouts of `group` that may enter a loss; the others are entered in `left_out`.

    Scores of one group must come from one version of each model: the rollouts scored by the version that scored most of them are
    kept, the others left out as "other_version".
    """
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
    comparable = of_one_version(group, kept)
    for index in kept:
        if index not in comparable:
            left_out.sample(group.rollouts[index], "other_version")
    return comparable


def of_one_version(group: Group, indices: Sequence[int]) -> list[int]:
    """Those of `indices` whose scores come from one version per signal, in order; all of them where nothing changed.

    Signal by signal, in the order of their names: the version of most of those left stays, of equally many the one whose name sorts
    last. A rollout without the signal (a branch of the program that was not taken) is comparable with every version of it.
    """
    kept = list(indices)
    signals = sorted({signal for index in indices for signal in group.scores[index].provenance})
    for signal in signals:
        version = {index: _version(group, index, signal) for index in kept}
        counts = Counter(found for found in version.values() if found is not None)
        if len(counts) > 1:
            majority = max(counts, key=lambda found: (counts[found], found))
            kept = [index for index in kept if version[index] in (None, majority)]
    return kept


def _version(group: Group, index: int, signal: str) -> tuple[str, ...] | None:
    source = group.scores[index].provenance.get(signal)
    return None if source is None else tuple(str(source.get(key, "")) for key in ("model", "version", "fingerprint"))


def concatenated(arrays: Sequence[FloatArray]) -> FloatArray:
    """float32[N] of per-token arrays end to end; empty for none."""
    return np.concatenate(arrays) if arrays else np.zeros(0, dtype=np.float32)
