"""Credit as one target per rollout, for losses that take completions one by one (KTO, SPPO, Nash-MD) or a prompt's as a list (PRO).

A target is the composed reward, or the win rate: the mean probability of beating the other rollouts of the group, or only those of
an opponent (Nash-MD's mixture, an earlier checkpoint), who then teach nothing themselves.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from rewardmesh.trainer.credit.admission import LeftOut, admitted, concatenated
from rewardmesh.trainer.credit.base import Credit, CreditRow
from rewardmesh.trainer.credit.preferences import DoubleArray, LabelSource, win_probabilities, win_rates
from rewardmesh.trainer.samples import Group, Source, all_rollouts

Target = Literal["reward", "win_rate"]


@dataclass(frozen=True, eq=False, kw_only=True)
class SequenceCredit(Credit):
    """S rollouts with N completion tokens.

    `targets` float32[S], what `kind` says; `weight` float32[S], 1 for each rollout, or adding up to 1 over each group of a `listwise`
    credit, which is never cut through a group; `reference_log_probs` float32[N] in the layout of `rollouts`, None where the algorithm
    asked for none. `kl`: nats, mean over the whole batch's own samples of log pi_t - log pi_ref of a completion, the policy pi_t being the
    one that sampled; 0 without a reference. It belongs to the batch and stays the same in every part.
    """

    per_sequence = ("targets", "weight")
    per_token = ("reference_log_probs",)

    targets: Tensor
    weight: Tensor
    kind: Target
    listwise: bool = False
    reference_log_probs: Tensor | None = None
    kl: float = 0.0

    @property
    def total_weight(self) -> float:
        """Sum of the weights."""
        return float(self.weight.double().sum())

    @property
    def why_whole(self) -> str:
        """A list is compared with itself."""
        return "a list in two: keep the rollouts of a group together" if self.listwise else ""

    def ledger_rows(self) -> dict[str, CreditRow]:
        """Credit of a rollout: its target."""
        return self._rows(self.kind, self.targets.tolist())


def sequence_credit(
    groups: Sequence[Group],
    *,
    target: Target,
    source: LabelSource = "reward",
    reward_temperature: float = 1.0,
    opponent: Source | None = None,
    listwise: bool = False,
    needs_reference: bool = True,
    own_samples: bool = False,
) -> SequenceCredit:
    """Every rollout that may be used, in the order of `groups`.

    `source` and `reward_temperature` give the probabilities behind a win rate. In a group that has rollouts of source `opponent`, win
    rates are against those alone, and they are left out as "opponent"; in any other, against all the others. A rollout that nobody
    compared is left out as "no_preference", one alone in a `listwise` group as "no_partner". `own_samples` leaves out what the step's
    policy did not sample (an opponent is still one).
    """
    all_rollouts(groups)  # refuses ids met twice: the ledger is keyed by them
    left_out = LeftOut()
    used: list[tuple[Group, int]] = []
    targets: list[float] = []
    weights: list[float] = []
    for group in groups:
        kept = admitted(group, left_out, needs_reference=needs_reference)
        rivals = np.array([opponent is not None and group.rollouts[index].source == opponent for index in kept], dtype=bool)
        worth = _worth(group, kept, target, source, reward_temperature, rivals)
        members: list[int] = []
        for place, index in enumerate(kept):
            if rivals[place]:
                left_out.sample(group.rollouts[index], "opponent")
            elif own_samples and group.rollouts[index].source != "policy":
                left_out.sample(group.rollouts[index], "not_own_sample")
            elif np.isnan(worth[place]):
                left_out.sample(group.rollouts[index], "no_preference")
            else:
                members.append(place)
        if listwise and len(members) == 1:
            left_out.group("fewer_than_two_rollouts")
            left_out.sample(group.rollouts[kept[members.pop()]], "no_partner")
        used.extend((group, kept[place]) for place in members)
        targets.extend(float(worth[place]) for place in members)
        weights.extend(1 / len(members) if listwise else 1.0 for _ in members)
    references = [reference for group, index in used if (reference := group.reference_log_probs[index]) is not None]
    kl = _sampling_kl(used) if needs_reference else 0.0
    return SequenceCredit(
        rollouts=tuple(group.rollouts[index] for group, index in used),
        normaliser=float(torch.tensor(weights).double().sum()),
        left_out=dict(left_out.counts),
        left_out_rollouts=left_out.rollouts,
        metrics={"rollouts": float(len(used)), target: float(np.mean(targets)) if targets else 0.0},
        targets=torch.tensor(targets, dtype=torch.float32),
        weight=torch.tensor(weights, dtype=torch.float32),
        kind=target,
        listwise=listwise,
        reference_log_probs=torch.from_numpy(concatenated(references)) if needs_reference else None,
        kl=kl,
    )


def _worth(
    group: Group,
    kept: Sequence[int],
    target: Target,
    source: LabelSource,
    reward_temperature: float,
    rivals: np.ndarray[tuple[int], np.dtype[np.bool_]],
) -> DoubleArray:
    if target == "reward":
        return np.array([group.scores[index].reward for index in kept], dtype=np.float64)
    against = ~np.eye(len(kept), dtype=bool)
    if rivals.any():
        against &= rivals[None, :]
    return win_rates(win_probabilities(group, kept, source, reward_temperature), against)


def _sampling_kl(used: Sequence[tuple[Group, int]]) -> float:
    """Mean log-ratio of the sampling policy to the reference over what the policy sampled: an unbiased estimate of its KL."""
    sums = [
        float(group.rollouts[index].sampling_log_probs.sum(dtype=np.float64) - reference.sum(dtype=np.float64))
        for group, index in used
        if group.rollouts[index].source == "policy" and (reference := group.reference_log_probs[index]) is not None
    ]
    return sum(sums) / len(sums) if sums else 0.0
