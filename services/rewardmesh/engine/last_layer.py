"""The last layer need not be computed where nobody reads it.

After the last layer's keys and values, a token's hidden state matters to no other token. So its query, attention output and feed-forward
block are computed for wanted rows only: one row a sequence for a reward, the completion's rows for log-probabilities.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_POSITION_WISE = ("mlp", "self_attn.q_proj", "self_attn.o_proj", "self_attn.dense", "attention.dense")
"""Modules of a decoder layer, by the names transformers gives them, that treat every row by itself and make no keys or values."""


@contextmanager
def only_rows(model: Any, rows: torch.Tensor | None) -> Iterator[None]:
    """Within it, position-wise parts of the last layer compute `rows` (int64, of a packed row [1, T, width]) and give zeros elsewhere.

    Only for this thread: others may run the same model at the same time.
    """
    parts = [] if rows is None else [_Part(module, rows) for module in _modules(model)]
    try:
        yield
    finally:
        for part in parts:
            part.release()


class _Part:
    """One module that is shown some of the rows."""

    def __init__(self, module: torch.nn.Module, rows: torch.Tensor) -> None:
        self._rows = rows
        self._thread = threading.get_ident()
        self._length = 0
        self._handles = (module.register_forward_pre_hook(self._select), module.register_forward_hook(self._spread))

    def _select(self, module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        if threading.get_ident() != self._thread:
            return inputs
        states, *others = inputs
        self._length = states.shape[1]
        return (states[:, self._rows], *others)

    def _spread(self, module: torch.nn.Module, inputs: Any, output: Any) -> Any:
        if threading.get_ident() != self._thread:
            return output
        # Layers with experts may return their router's logits beside.
        states, others = (output[0], output[1:]) if isinstance(output, tuple) else (output, ())
        spread = states.new_zeros(1, self._length, states.shape[-1]).index_copy(1, self._rows, states)
        return (spread, *others) if isinstance(output, tuple) else spread

    def release(self) -> None:
        """Show the module all rows again."""
        for handle in self._handles:
            handle.remove()


def _modules(model: Any) -> list[torch.nn.Module]:
    layers = getattr(model.base_model, "layers", None)
    if not isinstance(layers, torch.nn.ModuleList):
        return []
    named = dict(layers[-1].named_modules())
    return [named[name] for name in _POSITION_WISE if name in named]
