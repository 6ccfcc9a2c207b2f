"""Runs a plan through the compiled forward."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import torch

from rewardmesh.engine.native.cores import threads_of
from rewardmesh.engine.native.layers import ARCHITECTURES, NativeWeights
from rewardmesh.engine.native.library import Batch, NativeError, library
from rewardmesh.engine.packing import Plan
from rewardmesh.serving.memory import available_bytes

MEMORY_SHARE = 0.5
"""Of the free memory, that the weights may take a second time."""


class NativeDecoder:
    """The compiled forward of one model.

    Args:
        model: a transformers model whose weights do not change from here on.
        head: its linear classification head; None for a model without one.
        threads: for all forwards that run at a time.

    Raises:
        NativeError: it cannot be computed natively; says why.
    """

    def __init__(self, model: Any, head: torch.nn.Module | None, threads: int) -> None:
        parameter = next(model.parameters())
        if parameter.device.type != "cpu" or parameter.dtype != torch.float32:
            raise NativeError(f"it computes in {parameter.dtype} on {parameter.device}, the native forward in float32 on a CPU")
        if model.config.model_type not in ARCHITECTURES:
            raise NativeError(f"its architecture {model.config.model_type!r} is not one of {', '.join(ARCHITECTURES)}")
        needed = sum(p.numel() * p.element_size() for p in model.base_model.layers.parameters())
        free = available_bytes()
        if needed > MEMORY_SHARE * free:
            raise NativeError(f"its layers would take {needed >> 20} MiB a second time, and {free >> 20} MiB are free")
        self._library = library()
        self._model = model
        self._threads = threads
        self._outputs = 0 if head is None else int(head.out_features)  # type: ignore[arg-type]  # a linear layer by now
        self._weights = NativeWeights(model, head, self._library.rewardmesh_lanes())
        self._shape = self._weights.decoder.shape

    @property
    def bytes(self) -> int:
        """Memory of the weights in panels."""
        return self._weights.bytes

    def states(self, plan: Plan) -> torch.Tensor:
        """Final hidden states [T, width]; rows that the plan does not want hold anything. May be called by several threads.

        Raises:
            MemoryError: the batch is too large.
        """
        states: torch.Tensor = self._model.get_input_embeddings()(plan.token_ids).contiguous()
        cosines, sines = self._weights.rotary(self._model, plan.position_ids)
        segments = plan.segments
        queried = np.arange(len(states)) if plan.wanted is None else plan.wanted.numpy()
        _, examples, kinds = np.unique(plan.token_ids.numpy(), return_index=True, return_inverse=True)
        paths = [(*segment.ancestors, index) for index, segment in enumerate(segments)]
        arrays = {
            "positions": plan.position_ids.numpy(),
            "queried": queried,
            "examples": examples,
            "kinds": kinds,
            "starts": np.array([segment.start for segment in segments]),
            "offsets": np.array([segment.offset for segment in segments]),
            "tokens": np.array([segment.tokens for segment in segments]),
            "path_starts": np.cumsum([0, *map(len, paths)]),
            "paths": np.concatenate(paths),
            **self._key_values(plan),
        }
        batch = Batch(
            rows=len(states),
            segments=len(segments),
            queries=len(queried),
            distinct=len(examples),
            positions_end=max(segment.offset + segment.tokens for segment in segments),
            most_threads=self._threads,
            states=states.data_ptr(),
            cosines=cosines.data_ptr(),
            sines=sines.data_ptr(),
            **{name: array.ctypes.data for name, array in arrays.items()},
        )
        with threads_of(self._threads) as threads:
            batch.threads = ctypes.addressof(threads)
            failed = self._library.rewardmesh_forward(ctypes.byref(self._weights.decoder), ctypes.byref(batch))
        if failed:
            raise MemoryError(f"no memory for a batch of {len(states)} tokens")
        return states

    def outputs(self, states: torch.Tensor) -> torch.Tensor:
        """Outputs [n, outputs] of the classification head for final states [n, width]; a row's do not depend on the other rows."""
        head, outputs = self._weights.head, self._outputs
        if head is None:
            raise ValueError("the model has no classification head")
        rows = states.contiguous()
        found = torch.empty(len(rows), head.outputs)
        self._library.rewardmesh_multiply(rows.data_ptr(), len(rows), ctypes.byref(head), found.data_ptr())
        return found[:, :outputs]

    def _key_values(self, plan: Plan) -> dict[str, np.ndarray[Any, Any]]:
        """Where the library reads and writes keys and values of the prefix cache; those to keep are handed to the plan."""
        count, layers = len(plan.segments), self._shape.layers
        cached = np.zeros((count, layers, 2), np.uintp)
        strides = np.zeros(count, np.int64)
        kept = np.zeros((count, layers, 2), np.uintp)
        for index, segment in enumerate(plan.segments):
            if segment.cached:
                cached[index] = [(key.data_ptr(), value.data_ptr()) for key, value in segment.cached.layers]
                strides[index] = segment.cached.layers[0][0].stride(1)
            elif segment.path_ids is not None:
                memory = torch.empty(layers, 2, 1, self._shape.key_heads, segment.tokens, self._shape.head_width)
                plan.kept[index] = [(key, value) for key, value in memory]
                kept[index] = [(key.data_ptr(), value.data_ptr()) for key, value in memory]
        return {"cached": cached, "cached_strides": strides, "kept": kept}
