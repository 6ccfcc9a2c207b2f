"""Credit as pairs of rollouts with soft labels, for the preference losses (online DPO, IPO, SLiC).

A label is the probability that the first rollout of the pair is the better one. It is read from the judge's preference matrix
(both orders averaged), or is the Bradley-Terry probability of the composed rewards, sigmoid((r_i - r_j) / temperature).
A tie is .5; a missing preference is no pair, never .5. Hard labels are available but remove the KL anchor of online DPO.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rewardmesh.trainer.credit.admission import LeftOut, admitted, concatenated
from rewardmesh.trainer.credit.base import Credit, CreditRow, group_units
from rewardmesh.trainer.samples import FloatArray, Group, Rollout, all_rollouts

LabelSource = Literal["reward", "preferences", "mixed"]
Label = Literal["soft", "hard"]
PairSelection = Literal["all", "max_min", "random"]
DoubleArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class PairCredit(Credit):
    """P pairs over S distinct rollouts with N completion tokens.

    `first`, `second` LongTensor[P]: indices into `rollouts`; `p_first` float32[P] in [0, 1]: probability that first is better;
    `weight` float32[P]; `reference_log_probs` float32[N] in the layout of `rollouts`.
    """

    first: Tensor
    second: Tensor
    p_first: Tensor
    weight: Tensor
    reference_log_probs: Tensor

    def __post_init__(self) -> None:
        self.layout.check(self.reference_log_probs, "reference_log_probs")
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
        return replace(
            self,
            rollouts=tuple(self.rollouts[index] for index in sequences),
            left_out={},
            left_out_rollouts={},
            first=first[kept],
            second=second[kept],
            p_first=self.p_first[kept],
            weight=self.weight[kept],
            reference_log_probs=self.reference_log_probs[self.layout.token_index(sequences)],
        )

    def normalised_by(self, normaliser: float) -> Self:
        """The same pairs with another normaliser."""
        return replace(self, normaliser=normaliser)

    def units(self, at_least: int) -> list[list[int]]:
        """One unit per group: pairs never cross groups."""
        return group_units(self.rollouts)

    def ledger_rows(self) -> dict[str, CreditRow]:
        """Credit of a rollout: its mean probability of being the better one, over its pairs."""
        rows: dict[str, CreditRow] = {
            id_: {"credit": None, "credit_kind": "win_probability", "pairs": 0, "left_out": reason}
            for id_, reason in self.left_out_rollouts.items()
        }
        both = torch.cat([self.first, self.second])
        wins = torch.zeros(len(self.rollouts), dtype=torch.float64).index_add(0, both, torch.cat([self.p_first, 1 - self.p_first]).double())
        counts = torch.bincount(both, minlength=len(self.rollouts))
        for rollout, win, count in zip(self.rollouts, wins.tolist(), counts.tolist(), strict=True):
            rows[rollout.id] = {"credit": win / count, "credit_kind": "win_probability", "pairs": count, "left_out": ""}
        return rows


def pair_credit(
    groups: Sequence[Group],
    rng: np.random.Generator,
    *,
    source: LabelSource = "reward",
    label: Label = "soft",
    reward_temperature: float = 1.0,
    selection: PairSelection = "all",
    min_margin: float = 0.0,
) -> PairCredit:
    """Pairs within each group, each of weight 1, in the order of `groups`.

    `selection`: every pair; the best against the worst rollout (by mean win probability); or a random matching of disjoint
    pairs. A pair with |2p - 1| < `min_margin` (in [0, 1], before hardening) is left out, so is a group with fewer than two
    rollouts that may be used, and a rollout that ends up in no pair.
    """
    all_rollouts(groups)  # refuses ids met twice: the ledger is keyed by them
    left_out = LeftOut()
    rollouts: list[Rollout] = []
    references: list[FloatArray] = []
    first: list[int] = []
    second: list[int] = []
    labels: list[float] = []
    for group in groups:
        kept = admitted(group, left_out, needs_reference=True)
        if len(kept) < 2:
            left_out.group("fewer_than_two_rollouts")
            for index in kept:
                left_out.sample(group.rollouts[index], "no_partner")
            continue
        probability = win_probabilities(group, kept, source, reward_temperature)
        pairs = _selected(probability, selection, rng)
        known = [(i, j) for i, j in pairs if not np.isnan(probability[i, j])]
        left_out.pairs("no_preference", len(pairs) - len(known))
        chosen = [(i, j) for i, j in known if abs(2 * probability[i, j] - 1) >= min_margin]
        left_out.pairs("below_min_margin", len(known) - len(chosen))
        used = sorted({index for pair in chosen for index in pair})
        place = {index: len(rollouts) + position for position, index in enumerate(used)}
        for index, original in enumerate(kept):
            if index in place:
                reference = group.reference_log_probs[original]
                assert reference is not None
                rollouts.append(group.rollouts[original])
                references.append(reference)
            else:
                left_out.sample(group.rollouts[original], "no_pair")
        first.extend(place[i] for i, _ in chosen)
        second.extend(place[j] for _, j in chosen)
        labels.extend(float(probability[i, j]) for i, j in chosen)
    p_first = torch.tensor(labels, dtype=torch.float64)
    if label == "hard":
        p_first = (torch.sign(p_first - 0.5) + 1) / 2
    return PairCredit(
        rollouts=tuple(rollouts),
        normaliser=float(len(first)),
        left_out=dict(left_out.counts),
        left_out_rollouts=left_out.rollouts,
        metrics={"pairs": float(len(first)), "rollouts": float(len(rollouts)), "label_margin": _mean(np.abs(2 * np.array(labels) - 1))},
        first=torch.tensor(first, dtype=torch.long),
        second=torch.tensor(second, dtype=torch.long),
        p_first=p_first.float(),
        weight=torch.ones(len(first)),
        reference_log_probs=torch.from_numpy(concatenated(references)),
    )


def win_probabilities(group: Group, kept: Sequence[int], source: LabelSource, reward_temperature: float) -> DoubleArray:
    """float64[n, n] over the `kept` rollouts: probability that the row's is better than the column's; NaN where nobody said.

    "mixed" takes the judge's preference where there is one and the Bradley-Terry probability of the rewards elsewhere.
    """
    rewards = np.array([group.scores[index].reward for index in kept], dtype=np.float64)
    from_reward = 0.5 * (1 + np.tanh((rewards[:, None] - rewards[None, :]) / (2 * reward_temperature)))
    if source == "reward":
        return from_reward
    judged = np.full_like(from_reward, np.nan)
    if group.preferences is not None:
        one_way = np.asarray(group.preferences, dtype=np.float64)[np.ix_(kept, kept)]
        other_way = 1 - one_way.T
        judged = np.where(np.isnan(one_way), other_way, np.where(np.isnan(other_way), one_way, (one_way + other_way) / 2))
    return judged if source == "preferences" else np.where(np.isnan(judged), from_reward, judged)


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


def _mean(values: DoubleArray) -> float:
    return float(values.mean()) if values.size else 0.0
