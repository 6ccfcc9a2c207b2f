"""Online DPO and its relatives (IPO, SLiC) on rollouts of the current policy.

Guo et al. 2024, "Direct Language Model Alignment from Online AI Feedback" (arXiv 2402.04792). Departures: labels are soft, the
composed reward's Bradley-Terry probability or the judge's own; all pairs of a group are used; a rollout without a score is in no pair.
With reward temperature 1 the sigmoid loss converges to pi_ref exp(reward / beta) / Z, and hard labels to no such thing.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from rewardmesh.trainer.algorithms._base import AlgorithmConfig, LossOutput
from rewardmesh.trainer.credit import Credit, PairCredit, minibatches, pair_credit
from rewardmesh.trainer.credit.pairs import Label, LabelSource, PairSelection
from rewardmesh.trainer.losses import hinge_preference_loss, identity_preference_loss, sigmoid_preference_loss
from rewardmesh.trainer.samples import Group

_LOSSES = {"sigmoid": sigmoid_preference_loss, "ipo": identity_preference_loss, "hinge": hinge_preference_loss}


class OnlineDPOConfig(AlgorithmConfig):
    """Options of online DPO; the defaults are those of the demo."""

    beta: float = Field(default=0.1, gt=0, description="strength of the KL anchor")
    loss: Literal["sigmoid", "ipo", "hinge"] = "sigmoid"
    label: Label = "soft"
    label_source: LabelSource = Field(default="reward", description="mixed: the judge's preference where there is one, else the reward's")
    reward_temperature: float = Field(default=1.0, gt=0, description="tau in sigmoid((r_i - r_j) / tau)")
    pair_selection: PairSelection = "all"
    min_margin: float = Field(default=0.0, ge=0, le=1, description="least |2p - 1| of a pair")
    length_normalised: bool = Field(default=False, description="ipo only: margins of per-token means instead of sums")

    @model_validator(mode="after")
    def _length_normalised_is_for_ipo(self) -> Self:
        if self.length_normalised and self.loss != "ipo":
            raise ValueError("length_normalised is only for loss: ipo")
        return self


class OnlineDPO:
    """Pairs with soft labels, and a preference loss on the difference of their log-ratios to the reference."""

    name = "online_dpo"
    needs_critic = False
    needs_reference = True
    samples_per_prompt_min = 2

    def __init__(self, config: OnlineDPOConfig) -> None:
        self.config = config

    @property
    def epochs(self) -> int:
        """Passes over the batch."""
        return self.config.epochs

    def credit(self, groups: Sequence[Group], rng: np.random.Generator, values: Tensor | None = None) -> PairCredit:
        """Pairs within each group; `values` is not used."""
        return pair_credit(
            groups,
            rng,
            source=self.config.label_source,
            label=self.config.label,
            reward_temperature=self.config.reward_temperature,
            selection=self.config.pair_selection,
            min_margin=self.config.min_margin,
        )

    def minibatches(self, credit: Credit, rng: np.random.Generator) -> Iterator[Credit]:
        """Whole groups per minibatch."""
        return minibatches(credit, self.config.minibatches, rng)

    def loss(self, credit: Credit, log_probs: Tensor, values: Tensor | None = None) -> LossOutput:
        """Weighted sum over pairs of the preference loss, over the normaliser.

        Metrics: `margin` beta * h towards the label's side, `pair_accuracy` share of pairs where the policy agrees with the label (ties
        on either side count half), `kl` the mean over the pairs' rollouts of rho.
        """
        if not isinstance(credit, PairCredit):
            raise TypeError(f"online DPO takes PairCredit, got {type(credit).__name__}")
        credit.layout.check(log_probs, "log_probs")
        device = log_probs.device
        log_ratio = log_probs - credit.reference_log_probs.to(device)
        rho = credit.layout.mean(log_ratio) if self.config.length_normalised else credit.layout.sum(log_ratio)
        margin = rho[credit.first.to(device)] - rho[credit.second.to(device)]
        p_first = credit.p_first.to(device).double()
        share = credit.weight.to(device).double() / (credit.normaliser or 1.0)
        loss = (share * _LOSSES[self.config.loss](margin, p_first, self.config.beta)).sum()
        with torch.no_grad():
            side = torch.sign(p_first - 0.5)
            sums = credit.layout.sum(log_ratio)
            metrics = {
                "loss": float(loss),
                "margin": float((share * side * self.config.beta * margin).sum()),
                "pair_accuracy": float((share * (1 + side * torch.sign(margin)) / 2).sum()),
                "kl": float((share * (sums[credit.first.to(device)] + sums[credit.second.to(device)]) / 2).sum()),
            }
        return LossOutput(loss.to(log_probs.dtype), metrics)

    def finish_step(self, credit: Credit) -> dict[str, float]:
        """Nothing adapts."""
        return {}

    def state(self) -> dict[str, float]:
        """No state."""
        return {}

    def load_state(self, state: Mapping[str, float]) -> None:
        """No state."""
        if state:
            raise ValueError(f"online DPO has no state, got {', '.join(state)}")


Config = OnlineDPOConfig
create = OnlineDPO
