"""Matrix products with weights on the CPU.

torch's own float32 product is MKL's, which leaves the AVX-512 units of other makers' processors idle; oneDNN, which torch carries as well,
uses them. Which of them computes depends on the processor alone, never on a measurement: a score must not change its last bit because a
server was started again.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import linear as torch_linear


def linear(states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """states [..., width] times weight [outputs, width], transposed, plus bias [outputs]."""
    if not _plain(states, weight):
        return torch_linear(states, weight, bias)
    if torch.is_grad_enabled() and (states.requires_grad or weight.requires_grad or (bias is not None and bias.requires_grad)):
        found: torch.Tensor = _Product.apply(states, weight, bias)  # type: ignore[no-untyped-call]
        return found
    return _product(states, weight, bias)


def use_linear(model: Any) -> None:
    """Let the linear layers of a model that is on the CPU compute by `linear`."""
    for module in model.modules():
        if type(module) is torch.nn.Linear and _plain(module.weight, module.weight):
            module.__class__ = Linear


class Linear(torch.nn.Linear):
    """A linear layer that computes by `linear`."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """[..., width] to [..., outputs]."""
        return linear(input, self.weight, self.bias)


def outer_linear(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """left [n, k] times right [m, k], transposed, without gradients; both may be views: what the gradients of `linear` are made of."""
    return _product(left, right, None) if _suits(left, right) else torch_linear(left, right)


class _Product(torch.autograd.Function):
    """`_product` with gradients, which are two products more by the same library."""

    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """states [..., width], weight [outputs, width], bias [outputs] to [..., outputs]."""
        ctx.save_for_backward(states, weight)
        return _product(states, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients of those that need one."""
        states, weight = ctx.saved_tensors
        rows = gradient.reshape(-1, gradient.shape[-1])
        to_states = outer_linear(rows, weight.t()).view(states.shape) if ctx.needs_input_grad[0] else None
        to_weight = outer_linear(rows.t(), states.reshape(-1, states.shape[-1]).t()) if ctx.needs_input_grad[1] else None
        to_bias = rows.sum(dim=0) if ctx.needs_input_grad[2] else None
        return to_states, to_weight, to_bias


def _product(states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(states, weight, bias, "none", [], "")
    return product


def _plain(states: torch.Tensor, weight: torch.Tensor) -> bool:
    return weight.is_contiguous() and _suits(states, weight)


def _suits(states: torch.Tensor, weight: torch.Tensor) -> bool:
    is_float = states.dtype == weight.dtype == torch.float32
    return is_float and states.device.type == weight.device.type == "cpu" and states.numel() > 0 and _preferred()


@cache
def _preferred() -> bool:
    """Whether oneDNN is the faster one here: AVX-512 on a processor that is not Intel's."""
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not available or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    processor = Path("/proc/cpuinfo")
    return processor.exists() and "GenuineIntel" not in processor.read_text()
