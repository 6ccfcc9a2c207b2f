"""What every algorithm is to the loop, and how one is found by its recipe name.

An algorithm is one module of this package with `Config` (a pydantic model) and `create(config)`. The loop calls, per batch:

    credit = algorithm.credit(groups, rng, values=old_values)      # who gets which credit; absences are left out and counted
    for _ in range(algorithm.epochs):
        for minibatch in algorithm.minibatches(credit, rng):       # one optimiser step each
            for part in micro_batches(minibatch, max_tokens):      # gradient accumulation: the losses add up
                algorithm.loss(part, log_probs, values).loss.backward()
    metrics = algorithm.finish_step(credit)

`log_probs` and `values` are Tensor[N] over the completion tokens of `part.rollouts`, concatenated in order.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import cast

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from rewardmesh.trainer.credit import Credit, minibatches
from rewardmesh.trainer.modules import known_modules, named_module
from rewardmesh.trainer.samples import Group

_PACKAGE = "rewardmesh.trainer.algorithms"


@dataclass(frozen=True)
class LossOutput:
    """`loss` is a scalar to call backward on. Loss and metrics are shares: summed over the micro-batches they give the batch's."""

    loss: Tensor
    metrics: dict[str, float]


class AlgorithmConfig(BaseModel):
    """Fields every algorithm has."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: int = Field(default=1, ge=1, description="passes over the batch")
    minibatches: int = Field(default=1, ge=1, description="optimiser steps per pass")


class Algorithm(ABC):
    """Turns groups into credit and credit into a loss; holds no model and no optimiser.

    Attributes:
        config: the typed configuration.
        needs_sampler: the sampler without which it has nothing to learn from; empty for none.
    """

    name: str
    config: AlgorithmConfig
    needs_critic: bool = False
    needs_reference: bool = True
    samples_per_prompt_min: int = 1
    needs_sampler: str = ""

    @property
    def epochs(self) -> int:
        """Passes over the batch."""
        return self.config.epochs

    @abstractmethod
    def credit(self, groups: Sequence[Group], rng: np.random.Generator, values: Tensor | None = None) -> Credit:
        """Credit of a batch. `values`: old per-token critic values, Tensor[N] over `all_rollouts(groups)`, when needs_critic."""

    def minibatches(self, credit: Credit, rng: np.random.Generator) -> Iterator[Credit]:
        """The parts of one pass, one optimiser step each, in random order; each is normalised by its own weight.

        Whole groups where there are enough of them or none may be cut, else single rollouts.
        """
        return minibatches(credit, self.config.minibatches, rng)

    @abstractmethod
    def loss(self, credit: Credit, log_probs: Tensor, values: Tensor | None = None) -> LossOutput:
        """Loss over `credit`, normalised by `credit.normaliser`; `values` are the current critic's, when needs_critic."""

    def finish_step(self, credit: Credit) -> dict[str, float]:
        """Called once after the last pass over a batch; returns metrics. What adapts moves here."""
        return {}

    def state(self) -> dict[str, float]:
        """What a checkpoint must keep for an exact resume."""
        return {}

    def load_state(self, state: Mapping[str, float]) -> None:
        """Restores `state()`; ValueError for that of another configuration."""
        if state:
            raise ValueError(f"{self.name} has no state, got {', '.join(state)}")


def known_algorithms() -> tuple[str, ...]:
    """Names that `load_algorithm` accepts."""
    return known_modules(_PACKAGE)


def load_algorithm(name: str, config: Mapping[str, object] | None = None) -> Algorithm:
    """The algorithm `name` with `config` validated by its own model; ValueError for an unknown name lists the known ones."""
    return cast(Algorithm, _module(name).create(algorithm_config(name).model_validate(dict(config or {}))))


def algorithm_config(name: str) -> type[AlgorithmConfig]:
    """The configuration class of the algorithm `name`; ValueError as `load_algorithm`."""
    return cast(type[AlgorithmConfig], _module(name).Config)


def _module(name: str) -> ModuleType:
    return named_module(_PACKAGE, "algorithm", name)
