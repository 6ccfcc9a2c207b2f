"""Next-token logits of sequences that somebody else continues: each has keys and values of its own, which grow by the tokens chosen.

Steps of several streams are one packed forward pass: a stream's tokens so far are a cached segment of the plan, its new tokens a segment
of the row. A model that cannot be packed computes stream by stream with transformers' `DynamicCache`. A stream keeps the policy
version that it began with, and so works on while another version is activated.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from inspect import signature
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from rewardmesh.engine.adapters import AdaptedModel
from rewardmesh.engine.forward import hidden_states
from rewardmesh.engine.interface import NotSupportedError, ServedModel
from rewardmesh.engine.loading import LoadedModel
from rewardmesh.engine.log_probs import head_logits
from rewardmesh.engine.packing import Plan, Segment, TokenIds
from rewardmesh.engine.prefix_cache import Run

_ROOM_TOKENS = 64


@dataclass(frozen=True)
class NextTokens:
    """The distribution of the next token.

    Attributes:
        logits: float32 [V], or [k] of the most likely tokens in descending order.
        ids: int64 [k]; None for the whole vocabulary.
        remainder: probability mass outside `ids`.
    """

    logits: torch.Tensor
    ids: torch.Tensor | None
    remainder: float


class LogitStream:
    """One growing sequence under one policy version.

    Attributes:
        tokens: how many it has; their keys and values are in memory.

    Raises:
        NotSupportedError: the model's engine keeps no keys and values in this process.
    """

    def __init__(self, model: ServedModel) -> None:
        if not isinstance(model, LoadedModel) or "token_statistics" not in model.abilities:
            raise NotSupportedError(f"the {model.engine} engine of model {model.name!r} does not offer next-token logits")
        if not model.packed and "past_key_values" not in signature(model.model.forward).parameters:
            raise NotSupportedError(f"model {model.name!r} ({type(model.model).__name__}) keeps no keys and values to go on from")
        self.model = model
        self.tokens = 0
        self._memory: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._cache: Any = None if model.packed else DynamicCache(config=model.model.config)

    def segments(self, end: int, new: int, index: int) -> list[Segment]:
        """The stream in a plan: its tokens so far, and `new` tokens at row `end`; `index` is that of its first segment."""
        so_far: list[Segment] = []
        if self.tokens:
            views = tuple((key[:, :, : self.tokens], value[:, :, : self.tokens]) for key, value in self._memory)
            so_far = [Segment(end, end, 0, (), Run(self.tokens, views))]
        # What `path_ids` holds is of no use here; that it is there makes the forward pass keep the keys and values.
        ancestors = tuple(range(index, index + len(so_far)))
        return [*so_far, Segment(end, end + new, self.tokens, ancestors, None, np.empty(0, np.int64))]

    def extend(self, layers: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Add the keys and values of new tokens, layer by layer; the memory grows by a quarter at a time."""
        stop = self.tokens + layers[0][0].shape[2]
        if not self._memory:
            self._memory = list(layers)
        else:
            self._memory = [
                (_appended(memory[0], key, self.tokens), _appended(memory[1], value, self.tokens))
                for memory, (key, value) in zip(self._memory, layers, strict=True)
            ]
        self.tokens = stop

    def advance_alone(self, ids: TokenIds) -> torch.Tensor:
        """Add tokens by the model's own attention; float32 [V] logits of the token after them."""
        model, device = self.model, self.model.device
        batch = torch.as_tensor(np.asarray(ids, np.int64), device=device)[None]
        positions = torch.arange(self.tokens, self.tokens + batch.shape[1], device=device)[None]
        out = model.model(input_ids=batch, position_ids=positions, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
        self.tokens += batch.shape[1]
        logits: torch.Tensor = out.logits[0, -1].float()
        return logits


def advance(steps: Sequence[tuple[LogitStream, TokenIds]]) -> torch.Tensor:
    """Add tokens (at least one each) to different streams of one model, on the thread that owns it.

    Returns:
        float32 [n, V] on the CPU: for each stream the logits of the token after its new ones.
    """
    model = steps[0][0].model
    with torch.inference_mode(), _computing(model):
        if not model.packed:
            return torch.stack([stream.advance_alone(ids) for stream, ids in steps]).cpu()
        segments: list[Segment] = []
        ends, end = [], 0
        for stream, ids in steps:
            segments += stream.segments(end, len(ids), len(segments))
            ends.append(len(segments) - 1)
            end += len(ids)
        row = torch.from_numpy(np.concatenate([np.asarray(ids, np.int64) for _, ids in steps]))
        paths = tuple((*segments[last].ancestors, last) for last in ends)
        first = tuple(stream.tokens + len(ids) - 1 for stream, ids in steps)
        plan = Plan(row, tuple(segments), paths, first, sum(place + 1 for place in first))
        states = hidden_states(model.model, plan)
        rows = torch.cat([plan.rows(index) for index in range(len(steps))]).to(states.device)
        logits = head_logits(model.model, states[rows]).cpu()
        for (stream, _), last in zip(steps, ends, strict=True):
            stream.extend(plan.kept[last])
    return logits


def most_likely(logits: torch.Tensor, top_k: int) -> NextTokens:
    """The `top_k` most likely tokens (0: all) of float32 [V] logits, and the mass of the others."""
    if not top_k:
        return NextTokens(logits, None, 0.0)
    values, ids = logits.topk(min(top_k, len(logits)))
    exact = logits.double()
    whole = exact.logsumexp(0)
    others = exact.index_fill(0, ids, -torch.inf).logsumexp(0)
    return NextTokens(values, ids, float((others - whole).exp()))


def _appended(memory: torch.Tensor, new: torch.Tensor, used: int) -> torch.Tensor:
    """[1, heads, capacity, width] with `new` behind the first `used` tokens; the same memory while it has room."""
    stop = used + new.shape[2]
    if stop > memory.shape[2]:
        larger = memory.new_empty(*memory.shape[:2], stop + max(stop // 4, _ROOM_TOKENS), memory.shape[3])
        larger[:, :, :used] = memory[:, :, :used]
        memory = larger
    memory[:, :, used:stop] = new
    return memory


def _computing(model: LoadedModel) -> AbstractContextManager[None]:
    """Whatever must hold while the model computes: its adapter is active, when it is one of several on a base."""
    return model.shared.using(model.adapter) if isinstance(model, AdaptedModel) else nullcontext()
