"""Constrained policy gradient: the reward is maximised while other components are held to thresholds by Lagrange multipliers.

Moskovitz et al. 2023, "Confronting Reward Model Overoptimization with Constrained RLHF" (arXiv 2310.04373), and Dai et al. 2023, "Safe
RLHF" (arXiv 2310.12773). Departures: no critics; each component has the mean of its group as a baseline of its own and, with `scale`, its
own standard deviation; multipliers move by exponentiated gradient. The penalty kl_coef * log(pi / pi_ref), summed over the completion, is
part of the objective: without `scale` the fixed point is pi_ref exp((r + sum_i s_i lambda_i c_i) / kl_coef) / Z.
"""

from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from rewardmesh.trainer.algorithms._base import Algorithm, AlgorithmConfig, LossOutput
from rewardmesh.trainer.algorithms._policy_gradient import shift_metrics, token_credit_of
from rewardmesh.trainer.credit import Credit, TokenCredit
from rewardmesh.trainer.credit.admission import LeftOut, admitted, concatenated
from rewardmesh.trainer.credit.objectives import (
    Constraint,
    DoubleArray,
    Multiplier,
    component_values,
    lagrangian_advantages,
    load_multiplier_state,
    multiplier_state,
    objective_advantages,
)
from rewardmesh.trainer.losses import clipped_policy_loss
from rewardmesh.trainer.samples import Group, Rollout, all_rollouts


class LagrangianConfig(AlgorithmConfig):
    """Options of the constrained policy gradient."""

    objective: str = Field(default="", description="component that is maximised; empty for the program's reward")
    constraints: tuple[Constraint, ...] = Field(default=(), description="bounds on other components; none for the plain objective")
    scale: bool = Field(default=True, description="each component's advantages over their standard deviation within the group")
    kl_coef: float = Field(default=0.05, ge=0, description="penalty on log pi - log pi_ref of the completion, in the objective")
    clip: float = Field(default=0.2, gt=0, description="of the probability ratio")
    multiplier: float = Field(default=0.1, gt=0, description="what every multiplier starts from")
    multiplier_rate: float = Field(default=0.5, gt=0, description="change of log lambda per step and unit of violation")
    multiplier_min: float = Field(default=1e-3, gt=0, description="least value: how far a multiplier falls while its bound holds")
    multiplier_max: float = Field(default=100.0, gt=0, description="greatest value")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        names = [constraint.component for constraint in self.constraints]
        if len(set(names)) != len(names):
            raise ValueError("constraints: a component may have one bound")
        if self.objective in names:
            raise ValueError(f"constraints: {self.objective} is the objective")
        if not self.multiplier_min <= self.multiplier <= self.multiplier_max:
            raise ValueError("multiplier must lie between multiplier_min and multiplier_max")
        return self


class Lagrangian(Algorithm):
    """Advantages of the Lagrangian, the clipped policy loss, and multipliers that follow the violations."""

    name = "lagrangian"
    samples_per_prompt_min = 2

    config: LagrangianConfig

    def __init__(self, config: LagrangianConfig) -> None:
        self.config = config
        self.needs_reference = config.kl_coef > 0
        self.multipliers = {
            constraint.component: Multiplier(config.multiplier, config.multiplier_rate, config.multiplier_min, config.multiplier_max)
            for constraint in config.constraints
        }

    def credit(self, groups: Sequence[Group], rng: np.random.Generator, values: Tensor | None = None) -> TokenCredit:
        """One advantage per rollout on each of its tokens; a rollout without one of the components is left out of every baseline."""
        all_rollouts(groups)  # refuses ids met twice: the ledger is keyed by them
        left_out = LeftOut()
        rollouts: list[Rollout] = []
        advantages: list[float] = []
        tables: list[DoubleArray] = []
        divergences: list[float] = []
        for group in groups:
            kept, table, sums = self._scored(group, left_out)
            if len(kept) < 2:
                continue
            objective = table[:, 0] - self.config.kl_coef * sums
            separate = objective_advantages(np.column_stack([objective, table[:, 1:]]), scale=self.config.scale)
            combined = lagrangian_advantages(
                separate[:, 0],
                separate[:, 1:],
                np.array([multiplier.value for multiplier in self.multipliers.values()]),
                np.array([float(constraint.sign) for constraint in self.config.constraints]),
            )
            for index, advantage in zip(kept, combined.tolist(), strict=True):
                rollouts.append(group.rollouts[index])
                advantages.append(advantage)
            tables.append(table)
            divergences.extend(sums.tolist())
        lengths = [rollout.length for rollout in rollouts]
        return TokenCredit(
            rollouts=tuple(rollouts),
            normaliser=float(sum(lengths)),
            left_out=dict(left_out.counts),
            left_out_rollouts=left_out.rollouts,
            metrics=self._metrics(tables, divergences),
            advantages=torch.repeat_interleave(torch.tensor(advantages), torch.tensor(lengths, dtype=torch.long)).float(),
            old_log_probs=torch.from_numpy(concatenated([rollout.sampling_log_probs for rollout in rollouts])),
            weight=torch.ones(sum(lengths)),
        )

    def _scored(self, group: Group, left_out: LeftOut) -> tuple[list[int], DoubleArray, DoubleArray]:
        """Indices of the rollouts with every component, their table float64[k, 1 + c] (objective first) and log-ratio sums float64[k]."""
        indices = admitted(group, left_out, needs_reference=self.needs_reference)
        names = [self.config.objective, *self.multipliers]
        table = component_values(group, indices, names)
        if not self.config.objective:
            table[:, 0] = [group.scores[index].reward for index in indices]
        absent = np.isnan(table)
        rows = [row for row in range(len(indices)) if not absent[row].any()]
        for row in set(range(len(indices))).difference(rows):
            left_out.sample(group.rollouts[indices[row]], f"absent_component:{names[int(absent[row].argmax())]}")
        kept = [indices[row] for row in rows]
        if len(kept) < 2:
            left_out.group("fewer_than_two_rollouts")
            for index in kept:
                left_out.sample(group.rollouts[index], "no_baseline")
        return kept, table[rows], np.array([self._log_ratio(group, index) for index in kept], dtype=np.float64)

    def _log_ratio(self, group: Group, index: int) -> float:
        reference = group.reference_log_probs[index]
        if reference is None:
            return 0.0
        return float((group.rollouts[index].sampling_log_probs.astype(np.float64) - reference).sum())

    def _metrics(self, tables: Sequence[DoubleArray], divergences: Sequence[float]) -> dict[str, float]:
        metrics = {"rollouts": float(len(divergences))}
        if tables:
            means = np.concatenate(tables).mean(axis=0).tolist()
            metrics["objective"] = means[0]
            metrics["kl"] = float(np.mean(divergences))
            metrics.update({f"constraint/{name}": mean for name, mean in zip(self.multipliers, means[1:], strict=True)})
        return metrics

    def loss(self, credit: Credit, log_probs: Tensor, values: Tensor | None = None) -> LossOutput:
        """Token mean of the clipped policy loss. Metrics: `clip_fraction`, and `policy_shift`, the mean k2 of new against old."""
        tokens = token_credit_of(credit, self.name)
        tokens.layout.check(log_probs, "log_probs")
        device = log_probs.device
        old_log_probs = tokens.old_log_probs.to(device)
        share = tokens.weight.to(device).double() / (tokens.normaliser or 1.0)
        loss = (share * clipped_policy_loss(log_probs, old_log_probs, tokens.advantages.to(device), self.config.clip)).sum()
        shift = shift_metrics(tokens, log_probs, log_probs - old_log_probs, self.config.clip, None)
        return LossOutput(loss.to(log_probs.dtype), {"loss": float(loss.detach()), **shift})

    def finish_step(self, credit: Credit) -> dict[str, float]:
        """Moves each multiplier by the violation of its bound over the step's completions."""
        if not credit.is_empty:
            for constraint in self.config.constraints:
                self.multipliers[constraint.component].update(constraint.violation(credit.metrics[f"constraint/{constraint.component}"]))
        return self.state()

    def state(self) -> dict[str, float]:
        """The multipliers."""
        return multiplier_state(self.multipliers)

    def load_state(self, state: Mapping[str, float]) -> None:
        """Restores `state()`."""
        load_multiplier_state(self.multipliers, state)


Config = LagrangianConfig
create = Lagrangian
