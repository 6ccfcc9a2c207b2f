"""What every algorithm that learns from pairs shares: pairs with soft labels, minibatches of whole groups, one weighted sum of losses.

A subclass says what a pair costs (`pair_loss`) and what the policy's implicit reward is (`implicit_reward`), from the log-probs of the
completions. Departures that all share: labels are soft, the composed reward's Bradley-Terry probability or the judge's own; all pairs
of a group are used unless the recipe selects; a rollout without a score is in no pair, a pair without a label is no pair.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from rewardmesh.trainer.algorithms._base import Algorithm, AlgorithmConfig, LossOutput
from rewardmesh.trainer.algorithms._completions import Completions
from rewardmesh.trainer.credit import Credit, PairCredit, pair_credit
from rewardmesh.trainer.credit.pairs import Label, PairSelection
from rewardmesh.trainer.credit.preferences import LabelSource
from rewardmesh.trainer.samples import Group, Source


class PreferenceConfig(AlgorithmConfig):
    """Options of every algorithm on pairs."""

    beta: float = Field(default=0.1, gt=0, description="strength of the KL anchor")
    label: Label = Field(default="soft", description="hard: the likelier side is certain to be better, a tie stays .5")
    label_source: LabelSource = Field(
        default="reward",
        description="mixed: the judge's preference where there is one, else the reward's; win_rate: of each rollout against its group",
    )
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5, description="share of labels taken to be wrong")
    reward_temperature: float = Field(default=1.0, gt=0, description="tau in sigmoid((r_i - r_j) / tau)")
    pair_selection: PairSelection = Field(default="all", description="max_min: best against worst; random: disjoint pairs")
    min_margin: float = Field(default=0.0, ge=0, le=1, description="least |2p - 1| of a pair")


class ReferenceFreeConfig(PreferenceConfig):
    """Options of algorithms on pairs without a reference: their papers' hard labels, and no near-ties.

    A pair without a winner asks for equal rewards of its two sides. With log-ratios that is to stay at the reference; with bare
    log-probabilities it is to flatten the policy.
    """

    label: Label = Field(default="hard", description="hard: the likelier side is certain to be better, a tie stays .5")
    min_margin: float = Field(default=0.2, ge=0, le=1, description="least |2p - 1| of a pair")


C = TypeVar("C", bound=PreferenceConfig)


@dataclass(frozen=True, eq=False)
class Pairs:
    """P pairs of `completions` (S of them).

    `first`, `second` LongTensor[P]: which; `p_first` float64[P] in [0, 1]: probability that first is better; `rewards` float64[S];
    `token_rewards` float64[N] or None; `across` bool[S]: True for the completions of the source that the algorithm pairs across.
    """

    completions: Completions
    first: Tensor
    second: Tensor
    p_first: Tensor
    rewards: Tensor
    token_rewards: Tensor | None
    across: Tensor

    def sides(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Tensor[S] -> Tensor[P] of the first and of the second completions."""
        return values[self.first], values[self.second]

    def margin(self, values: Tensor) -> Tensor:
        """Tensor[S] -> Tensor[P]: first less second."""
        return values[self.first] - values[self.second]


class PreferenceAlgorithm(Algorithm, Generic[C]):
    """Pairs with soft labels, and a loss on each."""

    name: str
    samples_per_prompt_min = 2
    across: Source | None = None
    """Only pairs of a rollout of this source and one of another."""
    needs_token_rewards = False
    own_samples = False
    """Only what the step's policy sampled: the loss takes the sampling log-probs for the previous policy's."""

    config: C

    def __init__(self, config: C) -> None:
        self.config = config

    @abstractmethod
    def pair_loss(self, pairs: Pairs) -> Tensor:
        """float64 Tensor[P], each side in the place the pair gives it."""

    def implicit_reward(self, completions: Completions) -> Tensor:
        """float64 Tensor[S]: what the policy says each completion is worth, on the scale that the loss compares."""
        return self.config.beta * completions.log_ratio

    def credit(self, groups: Sequence[Group], rng: np.random.Generator, values: Tensor | None = None) -> PairCredit:
        """Pairs within each group; `values` is not used."""
        return pair_credit(
            groups,
            rng,
            source=self.config.label_source,
            label=self.config.label,
            label_smoothing=self.config.label_smoothing,
            reward_temperature=self.config.reward_temperature,
            selection=self.config.pair_selection,
            min_margin=self.config.min_margin,
            across=self.across,
            needs_reference=self.needs_reference,
            needs_token_rewards=self.needs_token_rewards,
            own_samples=self.own_samples,
        )

    def loss(self, credit: Credit, log_probs: Tensor, values: Tensor | None = None) -> LossOutput:
        """Weighted sum over pairs of their losses, over the normaliser.

        Metrics: `margin` of the implicit rewards towards the label's side, `pair_accuracy` share of pairs where the policy agrees with the
        label (ties on either side count half), and with a reference `kl`, the mean over the pairs' rollouts of rho.
        """
        if not isinstance(credit, PairCredit):
            raise TypeError(f"{self.name} takes PairCredit, got {type(credit).__name__}")
        pairs = self._pairs(credit, log_probs)
        share = credit.weight.to(log_probs.device).double() / (credit.normaliser or 1.0)
        loss = (share * self.pair_loss(pairs)).sum()
        with torch.no_grad():
            side = torch.sign(pairs.p_first - 0.5)
            margin = pairs.margin(self.implicit_reward(pairs.completions))
            metrics = {
                "loss": float(loss.detach()),
                "margin": float((share * side * margin).sum()),
                "pair_accuracy": float((share * (1 + side * torch.sign(margin)) / 2).sum()),
            }
            if credit.reference_log_probs is not None:
                first, second = pairs.sides(pairs.completions.log_ratio)
                metrics["kl"] = float((share * (first + second) / 2).sum())
        return LossOutput(loss.to(log_probs.dtype), metrics)

    def _pairs(self, credit: PairCredit, log_probs: Tensor) -> Pairs:
        device = log_probs.device
        return Pairs(
            completions=Completions.of(credit, log_probs),
            first=credit.first.to(device),
            second=credit.second.to(device),
            p_first=credit.p_first.to(device).double(),
            rewards=credit.rewards.to(device).double(),
            token_rewards=None if credit.token_rewards is None else credit.token_rewards.to(device).double(),
            across=torch.tensor([rollout.source == self.across for rollout in credit.rollouts], dtype=torch.bool, device=device),
        )
