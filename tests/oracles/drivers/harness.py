"""What the drivers share: they read random inputs, evaluate the oracle's own functions, and write losses and gradients.

A driver runs in the oracle's environment (numpy and torch, none of our code): `python -m oracles.drivers.trl_0_28 IN.npz OUT.npz`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Arrays = dict[str, npt.NDArray[np.float64]]


class Inputs:
    """The random inputs as tensors; B sequences of at most T tokens, B / 2 chosen ones before B / 2 rejected ones.

    `log_probs` float64[B, T] is the leaf of every gradient; like `old` and `reference` it is 0 where `mask` float64[B, T] is 0.
    """

    def __init__(self, arrays: Mapping[str, npt.NDArray[np.float64]]) -> None:
        self.arrays = {name: torch.from_numpy(np.asarray(array)) for name, array in arrays.items()}
        self.log_probs = self.arrays["log_probs"].clone().requires_grad_()
        self.mask = self.arrays["mask"]

    def __getitem__(self, name: str) -> Tensor:
        return self.arrays[name]

    def select(self, rows: Sequence[int]) -> Inputs:
        """The same of only these sequences, with gradients into the same leaf; arrays that are not per sequence stay whole."""
        part = object.__new__(Inputs)
        count = len(self.mask)
        part.arrays = {name: array[list(rows)] if len(array) == count else array for name, array in self.arrays.items()}
        part.log_probs, part.mask = self.log_probs[list(rows)], part.arrays["mask"]
        return part

    @property
    def sums(self) -> tuple[Tensor, Tensor]:
        """Sequence log-probabilities of the chosen and the rejected, float64[B / 2] each."""
        chosen, rejected = (self.log_probs * self.mask).sum(1).chunk(2)
        return chosen, rejected

    @property
    def means(self) -> tuple[Tensor, Tensor]:
        """Their means over tokens."""
        chosen, rejected = ((self.log_probs * self.mask).sum(1) / self.mask.sum(1)).chunk(2)
        return chosen, rejected

    @property
    def reference_sums(self) -> tuple[Tensor, Tensor]:
        """Those of the reference."""
        chosen, rejected = (self["reference"] * self.mask).sum(1).chunk(2)
        return chosen, rejected


Case = Callable[[Inputs], Tensor]


def evaluate(cases: Mapping[str, Case]) -> None:
    """Run every case; `NAME/loss` is what it returns, `NAME/gradient` float64[B, T] that of its mean where it has one."""
    with np.load(Path(sys.argv[1])) as archive:
        arrays = dict(archive)
    results: Arrays = {}
    for name, case in cases.items():
        inputs = Inputs(arrays)
        loss = case(inputs)
        results[f"{name}/loss"] = loss.detach().double().numpy()
        if loss.requires_grad:
            (gradient,) = torch.autograd.grad(loss.mean(), inputs.log_probs)  # as a batch of these pairs or sequences would have
            results[f"{name}/gradient"] = gradient.numpy()
    np.savez(Path(sys.argv[2]), **results)  # type: ignore[arg-type]
