"""Credit as pairs of rollouts with soft labels, for the preference losses.

A label is the probability that the first rollout of the pair is the better one. It is read from the judge's preference matrix
(both orders averaged), or is the Bradley-Terry probability of the composed rewards, sigmoid((r_i - r_j) / temperature).
A tie is .5; a missing preference is no pair, never .5. Hard labels are available but remove the KL anchor of online DPO.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rewardmesh.trainer.credit.admission import LeftOut, admitted, concatenated
from rewardmesh.trainer.credit.base import Credit, CreditRow, group_units
from rewardmesh.trainer.credit.preferences import DoubleArray, LabelSource, win_probabilities
from rewardmesh.trainer.losses.dpo import smoothed_labels
from rewardmesh.trainer.samples import FloatArray, Group, Source, all_rollouts

Label = Literal["soft", "hard"]
PairSelection = Literal["all", "max_min", "random"]


@dataclass(frozen=True, eq=False, kw_only=True)
class PairCredit(Credit):
    """P pairs over S distinct rollouts with N completion tokens.

    `first`, `second` LongTensor[P]: indices into `rollouts`; `p_first` float32[P] in [0, 1]: probability that first is better;
    `weight` float32[P]; `rewards` float32[S], the composed rewards; `reference_log_probs` and `token_rewards` float32[N] in the layout of
    `rollouts`, None where the algorithm asked for none.
    """

    per_sequence = ("rewards",)
    per_token = ("reference_log_probs", "token_rewards")

    first: Tensor
    second: Tensor
    p_first: Tensor
    weight: Tensor
    rewards: Tensor
    reference_log_probs: Tensor | None = None
    token_rewards: Tensor | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("second", "p_first", "weight"):
            if getattr(self, name).shape != self.first.shape:
                raise ValueError(f"{name} has shape {tuple(getattr(self, name).shape)} for {self.first.numel()} pairs")

    @property
    def pairs(self) -> int:
        """P."""
        return self.first.numel()

    @property
    def total_weight(self) -> float:
        """Sum of the pair weights."""
        return float(self.weight.double().sum())

    def select(self, sequences: Sequence[int]) -> Self:
        """The part of the pairs whose two rollouts are both at `sequences`."""
        place = torch.full((len(self.rollouts),), -1, dtype=torch.long)
        place[torch.tensor(sequences, dtype=torch.long)] = torch.arange(len(sequences))
        first, second = place[self.first], place[self.second]
        if bool(((first < 0) != (second < 0)).any()):
            raise ValueError("sequences cut a pair in two: keep the rollouts of a group together")
        kept = first >= 0
        return self._part(sequences, first=first[kept], second=second[kept], p_first=self.p_first[kept], weight=self.weight[kept])

    def units(self, at_least: int) -> list[list[int]]:
        """One unit per group: pairs never cross groups."""
        return group_units(self.rollouts)

    def ledger_rows(self) -> dict[str, CreditRow]:
        """Credit of a rollout: its mean probability of being the better one, over its pairs."""
        both = torch.cat([self.first, self.second])
        wins = torch.zeros(len(self.rollouts), dtype=torch.float64).index_add(0, both, torch.cat([self.p_first, 1 - self.p_first]).double())
        counts = torch.bincount(both, minlength=len(self.rollouts))
        return self._rows("win_probability", (wins / counts).tolist(), counts.tolist())


def pair_credit(
    groups: Sequence[Group],
    rng: np.random.Generator,
    *,
    source: LabelSource = "reward",
    label: Label = "soft",
    label_smoothing: float = 0.0,
    reward_temperature: float = 1.0,
    selection: PairSelection = "all",
    min_margin: float = 0.0,
    across: Source | None = None,
    needs_reference: bool = True,
    needs_token_rewards: bool = False,
    own_samples: bool = False,
) -> PairCredit:
    """Pairs within each group, each of weight 1, in the order of `groups`.

    `selection`: every pair; the best against the worst rollout (by mean win probability); or a random matching of disjoint
    pairs. A pair with |2p - 1| < `min_margin` (in [0, 1], before hardening and smoothing) is left out, so is a group with fewer than two
    rollouts that may be used, and a rollout that ends up in no pair.

    `across`: only pairs of which exactly one rollout has that source ("max_min" is then the pair of the largest margin).
    `own_samples` leaves out every rollout that the step's policy did not sample, `needs_reference` and `needs_token_rewards` those that
    lack what the loss needs.
    """
    all_rollouts(groups)  # refuses ids met twice: the ledger is keyed by them
    left_out = LeftOut()
    used: list[tuple[Group, int]] = []
    first: list[int] = []
    second: list[int] = []
    labels: list[float] = []
    for group in groups:
        kept = _usable(group, left_out, needs_reference=needs_reference, needs_token_rewards=needs_token_rewards, own_samples=own_samples)
        if len(kept) < 2:
            left_out.group("fewer_than_two_rollouts")
            for index in kept:
                left_out.sample(group.rollouts[index], "no_partner")
            continue
        probability = win_probabilities(group, kept, source, reward_temperature)
        if across is None:
            pairs = _selected(probability, selection, rng)
        else:
            there = np.array([group.rollouts[index].source == across for index in kept])
            pairs = _selected_across(probability, there, selection, rng)
        known = [(i, j) for i, j in pairs if not np.isnan(probability[i, j])]
        left_out.pairs("no_preference", len(pairs) - len(known))
        chosen = [(i, j) for i, j in known if abs(2 * probability[i, j] - 1) >= min_margin]
        left_out.pairs("below_min_margin", len(known) - len(chosen))
        paired = sorted({index for pair in chosen for index in pair})
        place = {index: len(used) + position for position, index in enumerate(paired)}
        used.extend((group, kept[index]) for index in paired)
        for index, original in enumerate(kept):
            if index not in place:
                left_out.sample(group.rollouts[original], "no_pair")
        first.extend(place[i] for i, _ in chosen)
        second.extend(place[j] for _, j in chosen)
        labels.extend(float(probability[i, j]) for i, j in chosen)
    p_first = torch.tensor(labels, dtype=torch.float64)
    if label == "hard":
        p_first = (torch.sign(p_first - 0.5) + 1) / 2
    return PairCredit(
        rollouts=tuple(group.rollouts[index] for group, index in used),
        normaliser=float(len(first)),
        left_out=dict(left_out.counts),
        left_out_rollouts=left_out.rollouts,
        metrics={"pairs": float(len(first)), "rollouts": float(len(used)), "label_margin": _mean(np.abs(2 * np.array(labels) - 1))},
        first=torch.tensor(first, dtype=torch.long),
        second=torch.tensor(second, dtype=torch.long),
        p_first=smoothed_labels(p_first, label_smoothing).float(),
        weight=torch.ones(len(first)),
        rewards=torch.tensor([group.scores[index].reward for group, index in used], dtype=torch.float32),
        reference_log_probs=_tokens([group.reference_log_probs[index] for group, index in used]) if needs_reference else None,
        token_rewards=_tokens([group.scores[index].token_rewards for group, index in used]) if needs_token_rewards else None,
    )


def _usable(group: Group, left_out: LeftOut, *, needs_reference: bool, needs_token_rewards: bool, own_samples: bool) -> list[int]:
    kept = []
    for index in admitted(group, left_out, needs_reference=needs_reference):
        if own_samples and group.rollouts[index].source != "policy":
            left_out.sample(group.rollouts[index], "not_own_sample")
        elif needs_token_rewards and group.scores[index].token_rewards is None:
            left_out.sample(group.rollouts[index], "no_token_rewards")
        else:
            kept.append(index)
    return kept


def _tokens(arrays: Sequence[FloatArray | None]) -> Tensor:
    return torch.from_numpy(concatenated([array for array in arrays if array is not None]))


def _selected(probability: DoubleArray, selection: PairSelection, rng: np.random.Generator) -> list[tuple[int, int]]:
    count = len(probability)
    if selection == "random":
        order = [int(index) for index in rng.permutation(count)]
        return [(order[k], order[k + 1]) for k in range(0, count - 1, 2)]
    if selection == "max_min":
        known = ~np.isnan(probability) & ~np.eye(count, dtype=bool)
        strength = np.where(known, probability, 0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
        candidates = np.flatnonzero(known.any(axis=1))
        if len(candidates) < 2:
            return []
        best, worst = candidates[np.argmax(strength[candidates])], candidates[np.argmin(strength[candidates])]
        return [(int(best), int(worst))] if best != worst else [(int(candidates[0]), int(candidates[1]))]
    return [(i, j) for i in range(count) for j in range(i + 1, count)]


def _selected_across(
    probability: DoubleArray, there: npt.NDArray[np.bool_], selection: PairSelection, rng: np.random.Generator
) -> list[tuple[int, int]]:
    """Pairs of one rollout of the other source and one of any else, the lower index first."""
    others, own = np.flatnonzero(there).tolist(), np.flatnonzero(~there).tolist()
    if selection == "random":
        rng.shuffle(others)
        rng.shuffle(own)
        return [(min(pair), max(pair)) for pair in zip(others, own, strict=False)]
    pairs = sorted((min(i, j), max(i, j)) for i in others for j in own)
    if selection == "max_min":
        known = [pair for pair in pairs if not np.isnan(probability[pair])]
        return [max(known, key=lambda pair: abs(2 * probability[pair] - 1))] if known else []
    return pairs


def _mean(values: DoubleArray) -> float:
    return float(values.mean()) if values.size else 0.0
