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
    if _plain(states, weight) and not torch.is_grad_enabled():
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(states, weight, bias, "none", [], "")
        return product
    return torch_linear(states, weight, bias)


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


def _plain(states: torch.Tensor, weight: torch.Tensor) -> bool:
    is_float = states.dtype == weight.dtype == torch.float32
    return is_float and states.device.type == weight.device.type == "cpu" and weight.is_contiguous() and states.numel() > 0 and _preferred()


@cache
def _preferred() -> bool:
    """Whether oneDNN is the faster one here: AVX-512 on a processor that is not Intel's."""
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not available or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    processor = Path("/proc/cpuinfo")
    return processor.exists() and "GenuineIntel" not in processor.read_text()
