"""What every algorithm shares that takes completions one by one, or a prompt's completions as a list.

A subclass says what its targets are (`target`) and what a completion costs (`sequence_loss`). The loss is the mean over
completions, or over lists; a rollout without a score is in neither, nor in anybody's win rate.
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
from rewardmesh.trainer.credit import Credit, SequenceCredit, sequence_credit
from rewardmesh.trainer.credit.base import group_units
from rewardmesh.trainer.credit.preferences import LabelSource
from rewardmesh.trainer.credit.sequences import Target
from rewardmesh.trainer.samples import Group, Source


class SequenceConfig(AlgorithmConfig):
    """Options of every algorithm on single completions or lists."""

    label_source: LabelSource = Field(
        default="reward",
        description="of the probabilities behind win rates; mixed: the judge's preference where there is one, else the reward's",
    )
    reward_temperature: float = Field(default=1.0, gt=0, description="tau in sigmoid((r_i - r_j) / tau), for win rates from rewards")


C = TypeVar("C", bound=SequenceConfig)


@dataclass(frozen=True, eq=False)
class Sequences:
    """S `completions` with `targets` float64[S] (rewards or win rates) and `kl`, the step's KL to the reference in nats.

    `groups`: the places of each prompt's completions, G lists of at most K.
    """

    completions: Completions
    targets: Tensor
    kl: float
    groups: list[list[int]]

    def lists(self, values: Tensor) -> Tensor:
        """Tensor[S] -> Tensor[G, K], 0 where `present` is False."""
        index, present = self._index
        return values[index].masked_fill(~present, 0)

    @property
    def present(self) -> Tensor:
        """bool[G, K]: True where a list has a completion."""
        return self._index[1]

    def members(self, values: Tensor) -> Tensor:
        """Tensor[G] -> Tensor[S]: each completion gets its list's value."""
        place = torch.empty(len(self.targets), dtype=torch.long)
        for number, unit in enumerate(self.groups):
            place[torch.tensor(unit)] = number
        return values[place.to(values.device)]

    def best(self, values: Tensor) -> Tensor:
        """Tensor[S] -> Tensor[G]: the value of each list's completion of greatest target, the first of equals."""
        targets = self.lists(self.targets).masked_fill(~self.present, -torch.inf)
        return self.lists(values).gather(1, targets.argmax(dim=1, keepdim=True))[:, 0]

    @property
    def _index(self) -> tuple[Tensor, Tensor]:
        width = max((len(unit) for unit in self.groups), default=1)
        index = torch.tensor([unit + [0] * (width - len(unit)) for unit in self.groups], dtype=torch.long).reshape(-1, width)
        present = torch.tensor([[place < len(unit) for place in range(width)] for unit in self.groups], dtype=torch.bool).reshape(-1, width)
        return index.to(self.targets.device), present.to(self.targets.device)


class SequenceAlgorithm(Algorithm, Generic[C]):
    """A target per completion, and a loss on each."""

    name: str
    samples_per_prompt_min = 2
    target: Target = "win_rate"
    opponent: Source | None = None
    """Win rates are against rollouts of this source, in groups that have any."""
    listwise = False
    own_samples = False
    """Only what the step's policy sampled: the loss takes the sampling log-probs for the previous policy's."""

    config: C

    def __init__(self, config: C) -> None:
        self.config = config

    @abstractmethod
    def sequence_loss(self, sequences: Sequences) -> Tensor:
        """float64 Tensor[S]; of a list's loss every member has the whole, their weights add up to 1."""

    def credit(self, groups: Sequence[Group], rng: np.random.Generator, values: Tensor | None = None) -> SequenceCredit:
        """A target per rollout; `rng` and `values` are not used."""
        return sequence_credit(
            groups,
            target=self.target,
            source=self.config.label_source,
            reward_temperature=self.config.reward_temperature,
            opponent=self.opponent,
            listwise=self.listwise,
            needs_reference=self.needs_reference,
            own_samples=self.own_samples,
        )

    def loss(self, credit: Credit, log_probs: Tensor, values: Tensor | None = None) -> LossOutput:
        """Weighted sum over completions of their losses, over the normaliser.

        Metrics: with a reference `kl`, the mean over completions (or lists) of rho.
        """
        if not isinstance(credit, SequenceCredit):
            raise TypeError(f"{self.name} takes SequenceCredit, got {type(credit).__name__}")
        completions = Completions.of(credit, log_probs)
        share = credit.weight.to(log_probs.device).double() / (credit.normaliser or 1.0)
        targets = credit.targets.to(log_probs.device).double()
        loss = (share * self.sequence_loss(Sequences(completions, targets, credit.kl, group_units(credit.rollouts)))).sum()
        metrics = {"loss": float(loss.detach())}
        if credit.reference_log_probs is not None:
            metrics["kl"] = float((share * completions.log_ratio.detach()).sum())
        return LossOutput(loss.to(log_probs.dtype), metrics)
