"""Credit as one weight per rollout, for the weighted likelihood losses (best of n, filtered fine-tuning, reward-weighted regression)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rewardmesh.trainer.credit.admission import LeftOut, admitted, concatenated
from rewardmesh.trainer.credit.base import Credit, CreditRow
from rewardmesh.trainer.samples import FloatArray, Group, Rollout, all_rollouts

DoubleArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class WeightedCredit(Credit):
    """Per sequence float32[S]: `weight` multiplies its log-likelihood (may be negative), `mass` is what it counts in the normaliser.

    `reference_log_probs` float32[N] in the layout of `rollouts`, when the loss is anchored to a reference.
    """

    per_sequence = ("weight", "mass")
    per_token = ("reference_log_probs",)

    weight: Tensor
    mass: Tensor
    reference_log_probs: Tensor | None = None

    @property
    def total_weight(self) -> float:
        """Sum of the masses."""
        return float(self.mass.double().sum())

    def ledger_rows(self) -> dict[str, CreditRow]:
        """Credit of a rollout: its weight."""
        return self._rows("likelihood_weight", self.weight.tolist())


@dataclass(frozen=True)
class Candidates:
    """The k rollouts of a group that may be learned from: their `indices` in it and `rewards` float64[k]."""

    group: Group
    indices: tuple[int, ...]
    rewards: DoubleArray

    def log_prob_sums(self) -> DoubleArray:
        """float64[k]: nats under the sampling policy."""
        return np.array([self.group.rollouts[i].sampling_log_probs.sum(dtype=np.float64) for i in self.indices])

    def reference_sums(self) -> DoubleArray:
        """float64[k]: nats under the reference. ValueError where it was not asked for."""
        references = [self.group.reference_log_probs[i] for i in self.indices]
        if any(reference is None for reference in references):
            raise ValueError(f"reference_log_probs of group {self.group.id} must be given")
        return np.array([reference.sum(dtype=np.float64) for reference in references if reference is not None])


def candidates(groups: Sequence[Group], left_out: LeftOut, *, needs_reference: bool, at_least: int) -> list[Candidates]:
    """What may be learned from in each group that has `at_least` such rollouts; the others are entered in `left_out`."""
    all_rollouts(groups)  # refuses ids met twice: the ledger is keyed by them
    found = []
    for group in groups:
        kept = admitted(group, left_out, needs_reference=needs_reference)
        if len(kept) < at_least:
            left_out.group("too_few_scored_rollouts")
            for index in kept:
                left_out.sample(group.rollouts[index], "too_few_scored_rollouts")
        elif kept:
            rewards = np.array([group.scores[index].reward for index in kept], dtype=np.float64)
            found.append(Candidates(group, tuple(kept), rewards))
    return found


def weighted_credit(
    found: Sequence[Candidates], weights: Sequence[DoubleArray], left_out: LeftOut, *, keep_all: bool, with_reference: bool
) -> WeightedCredit:
    """Credit of `found` with `weights` float64[k] for each.

    Without `keep_all`, a rollout of weight 0 is left out as "not_selected" (its forward pass would be for nothing) and the mass of the
    others is their weight: the loss is the weighted mean. With it, every rollout has mass 1: the loss is the mean over all of them.
    """
    rollouts: list[Rollout] = []
    kept_weights: list[float] = []
    references: list[FloatArray] = []
    for item, given in zip(found, weights, strict=True):
        for index, weight in zip(item.indices, given.tolist(), strict=True):
            rollout, reference = item.group.rollouts[index], item.group.reference_log_probs[index]
            if weight == 0 and not keep_all:
                left_out.sample(rollout, "not_selected")
                continue
            rollouts.append(rollout)
            kept_weights.append(weight)
            if with_reference and reference is not None:
                references.append(reference)
    weight = torch.tensor(kept_weights, dtype=torch.float64).float()
    mass = torch.ones(len(rollouts)) if keep_all else weight
    return WeightedCredit(
        rollouts=tuple(rollouts),
        normaliser=float(mass.double().sum()),
        left_out=dict(left_out.counts),
        left_out_rollouts=left_out.rollouts,
        metrics=_metrics(found, weights),
        weight=weight,
        mass=mass,
        reference_log_probs=torch.from_numpy(concatenated(references)) if with_reference else None,
    )


def _metrics(found: Sequence[Candidates], weights: Sequence[DoubleArray]) -> dict[str, float]:
    """`score` of all candidates, `selected_score` the mean by positive weight, `effective_fraction` (sum w)^2 / (k sum w^2) of those."""
    rewards = np.concatenate([np.zeros(0), *(item.rewards for item in found)])
    positive = np.concatenate([np.zeros(0), *weights]).clip(min=0)
    total = float(positive.sum())
    metrics = {"candidates": float(rewards.size), "score": float(rewards.mean()) if rewards.size else 0.0}
    if total > 0:
        metrics["selected_score"] = float(positive @ rewards) / total
        metrics["effective_fraction"] = total**2 / (rewards.size * float(positive @ positive))
    return metrics
