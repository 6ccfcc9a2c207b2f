"""What a preference or sequence loss may know of the completions of a batch, worked out once per micro-batch, in float64."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Self

import torch
from torch import Tensor

from rewardmesh.trainer.credit import PairCredit, SequenceCredit, TokenLayout
from rewardmesh.trainer.credit.admission import concatenated

Anchor = Literal["reference", "previous"]


@dataclass(frozen=True, eq=False)
class Completions:
    """S completions with N tokens; log-probs in nats, gradient only through `token_log_probs`.

    `token_log_probs`, `token_reference_log_probs` (None where the credit has none) and `token_sampling_log_probs` Tensor[N] in `layout`.
    """

    layout: TokenLayout
    token_log_probs: Tensor
    token_reference_log_probs: Tensor | None
    token_sampling_log_probs: Tensor

    @classmethod
    def of(cls, credit: PairCredit | SequenceCredit, log_probs: Tensor) -> Self:
        """Those of `credit` under the current policy; `log_probs` Tensor[N]. ValueError for another shape."""
        credit.layout.check(log_probs, "log_probs")
        reference = credit.reference_log_probs
        sampling = torch.from_numpy(concatenated([rollout.sampling_log_probs for rollout in credit.rollouts]))
        return cls(
            layout=credit.layout,
            token_log_probs=log_probs.double(),
            token_reference_log_probs=None if reference is None else reference.to(log_probs.device).double(),
            token_sampling_log_probs=sampling.to(log_probs.device).double(),
        )

    @property
    def token_log_ratio(self) -> Tensor:
        """Tensor[N]: log pi - log pi_ref. ValueError where there is no reference."""
        return self.token_log_probs - self._reference

    @property
    def token_sampling_log_ratio(self) -> Tensor:
        """Tensor[N]: log pi_t - log pi_ref, pi_t being what sampled. ValueError where there is no reference."""
        return self.token_sampling_log_probs - self._reference

    @cached_property
    def log_prob(self) -> Tensor:
        """Tensor[S]: sum over the tokens of log pi."""
        return self.layout.sum(self.token_log_probs)

    @cached_property
    def mean_log_prob(self) -> Tensor:
        """Tensor[S]: mean over the tokens of log pi."""
        return self.layout.mean(self.token_log_probs)

    @cached_property
    def sampling_log_prob(self) -> Tensor:
        """Tensor[S]: sum over the tokens of the log-probs under the policy that sampled them."""
        return self.layout.sum(self.token_sampling_log_probs)

    @cached_property
    def reference_log_prob(self) -> Tensor:
        """Tensor[S]: sum over the tokens of log pi_ref."""
        return self.layout.sum(self._reference)

    @cached_property
    def log_ratio(self) -> Tensor:
        """Tensor[S]: rho, the sum over the tokens of log pi - log pi_ref."""
        return self.layout.sum(self.token_log_ratio)

    @cached_property
    def mean_log_ratio(self) -> Tensor:
        """Tensor[S]: the mean over the tokens of log pi - log pi_ref."""
        return self.layout.mean(self.token_log_ratio)

    def log_ratio_to(self, anchor: Anchor) -> Tensor:
        """Tensor[S]: the log-ratio to the reference, or to the previous policy, the one that sampled."""
        return self.log_ratio if anchor == "reference" else self.log_prob - self.sampling_log_prob

    @property
    def _reference(self) -> Tensor:
        if self.token_reference_log_probs is None:
            raise ValueError("reference_log_probs must be given: the loss is anchored to the reference")
        return self.token_reference_log_probs
