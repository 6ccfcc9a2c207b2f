"""Token log-probabilities in vocabulary chunks: memory stays bounded at any vocabulary size.

The log-sum-exp over the vocabulary is accumulated chunk by chunk (rows x vocabulary), and the statistics come out of the same pass:
entropy H = lse - E_p[z], self-certainty KL(U||p) = lse - mean(z) - log V, margin = difference of the two greatest log-probabilities.
Temperature divides the logits first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.checkpoint import checkpoint

from rewardmesh.engine.forward import sequence_states
from rewardmesh.engine.packing import TokenIds

ROW_CHUNK = 1024
VOCABULARY_CHUNK = 16384


@dataclass(frozen=True)
class TokenStatistics:
    """Statistics of the next-token distribution at N positions; fields not asked for are None.

    Attributes:
        log_probs: float32 [N], nats, of the given tokens.
        entropy, self_certainty, margin: float32 [N], nats.
        top_ids, top_log_probs: [N, k], most likely first.
    """

    log_probs: torch.Tensor
    entropy: torch.Tensor | None = None
    self_certainty: torch.Tensor | None = None
    margin: torch.Tensor | None = None
    top_ids: torch.Tensor | None = None
    top_log_probs: torch.Tensor | None = None

    def split(self, lengths: Sequence[int]) -> list[TokenStatistics]:
        """The statistics of each of several runs of positions, on the CPU; `lengths` sum to N."""
        parts: dict[str, Any] = {}
        for name in self.__dataclass_fields__:
            values = getattr(self, name)
            parts[name] = [None] * len(lengths) if values is None else values.cpu().split(list(lengths))
        return [TokenStatistics(**{name: part[i] for name, part in parts.items()}) for i in range(len(lengths))]


def completion_states(
    model: Any, pairs: Sequence[tuple[TokenIds, TokenIds]], *, packed: bool
) -> tuple[torch.Tensor, torch.Tensor, list[int], list[int]]:
    """Hidden states that predict every completion token.

    Args:
        pairs: (prompt ids, completion ids), neither empty.

    Returns:
        states [N, width]; the N completion tokens int64; the completions' lengths; tokens really
        computed for each pair.
    """
    # The last completion token predicts nothing that is asked for: it is never computed.
    inputs = [np.concatenate([np.asarray(p, np.int64), np.asarray(c, np.int64)[:-1]]) for p, c in pairs]
    states, rows, computed = sequence_states(model, inputs, packed=packed)
    wanted = torch.cat([r[len(p) - 1 :] for r, (p, _) in zip(rows, pairs, strict=True)])
    targets = torch.cat([torch.as_tensor(np.asarray(c, np.int64)) for _, c in pairs]).to(states.device)
    return states[wanted], targets, [len(c) for _, c in pairs], computed


def token_statistics(
    model: Any,
    states: torch.Tensor,
    targets: torch.Tensor,
    *,
    temperature: float = 1.0,
    extras: bool = False,
    top_k: int = 0,
) -> TokenStatistics:
    """Log-probabilities of `targets` [N] given `states` [N, width], without gradients, in bounded memory."""
    parts = [
        _chunk_statistics(model, states[i : i + ROW_CHUNK], targets[i : i + ROW_CHUNK], temperature, extras, top_k)
        for i in range(0, len(targets), ROW_CHUNK)
    ]
    fields: dict[str, Any] = {}
    for name in TokenStatistics.__dataclass_fields__:
        values = [getattr(part, name) for part in parts]
        fields[name] = None if values[0] is None else torch.cat(values)
    return TokenStatistics(**fields)


def _chunk_statistics(
    model: Any, states: torch.Tensor, targets: torch.Tensor, temperature: float, extras: bool, top_k: int
) -> TokenStatistics:
    vocabulary = output_weight(model).shape[0]
    rows = len(targets)
    greatest = torch.full((rows,), -math.inf, device=states.device)
    total, weighted, plain_sum = (torch.zeros(rows, device=states.device) for _ in range(3))
    chosen = torch.empty(rows, device=states.device)
    keep = max(top_k, 2 if extras else 0)
    top = torch.empty(rows, 0, device=states.device)
    top_ids = torch.empty(rows, 0, dtype=torch.int64, device=states.device)
    for start in range(0, vocabulary, VOCABULARY_CHUNK):
        stop = min(start + VOCABULARY_CHUNK, vocabulary)
        logits = _logits(model, states, start, stop) / temperature
        peak = torch.maximum(greatest, logits.max(dim=1).values)
        decay = torch.exp(greatest - peak)
        weights = torch.exp(logits - peak[:, None])
        total = total * decay + weights.sum(dim=1)
        if extras:
            weighted = weighted * decay + (weights * logits).sum(dim=1)
            plain_sum = plain_sum + logits.sum(dim=1)
        greatest = peak
        inside = (targets >= start) & (targets < stop)
        chosen[inside] = logits[inside, targets[inside] - start]
        if keep:
            values, ids = logits.topk(min(keep, stop - start), dim=1)
            joined, joined_ids = torch.cat([top, values], dim=1), torch.cat([top_ids, ids + start], dim=1)
            top, index = joined.topk(min(keep, joined.shape[1]), dim=1)
            top_ids = joined_ids.gather(1, index)
    lse = greatest + total.log()
    return TokenStatistics(
        log_probs=chosen - lse,
        entropy=lse - weighted / total if extras else None,
        self_certainty=lse - plain_sum / vocabulary - math.log(vocabulary) if extras else None,
        margin=top[:, 0] - top[:, 1] if extras else None,
        top_ids=top_ids[:, :top_k] if top_k else None,
        top_log_probs=(top - lse[:, None])[:, :top_k] if top_k else None,
    )


def differentiable_log_probs(model: Any, states: torch.Tensor, targets: torch.Tensor, *, temperature: float = 1.0) -> torch.Tensor:
    """float32 [N] log-probabilities with gradients; logits are recomputed in the backward pass, ROW_CHUNK rows at a time."""

    def rows(chunk: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        logits = _logits(model, chunk, 0, output_weight(model).shape[0]) / temperature
        return torch.log_softmax(logits, dim=1).gather(1, wanted[:, None])[:, 0]

    parts = []
    for i in range(0, len(targets), ROW_CHUNK):
        chunk, wanted = states[i : i + ROW_CHUNK], targets[i : i + ROW_CHUNK]
        if len(targets) <= ROW_CHUNK:
            parts.append(rows(chunk, wanted))
        else:
            parts.append(checkpoint(rows, chunk, wanted, use_reentrant=False))
    return torch.cat(parts)


def next_token_log_probs(
    model: Any, prompts: Sequence[TokenIds], token_ids: Sequence[int], *, packed: bool
) -> tuple[torch.Tensor, list[int]]:
    """Log-probabilities of a few tokens right after each prompt, over the whole vocabulary.

    Returns:
        float32 [n, len(token_ids)], nats; tokens really computed for each prompt.
    """
    states, rows, computed = sequence_states(model, prompts, packed=packed)
    last = states[torch.stack([r[-1] for r in rows])]
    wanted = torch.as_tensor(np.asarray(token_ids, np.int64), device=last.device)
    # One pass over the vocabulary gives the normaliser; the few logits are computed again, exactly, from their rows of the head.
    logits = torch.stack([_logits(model, last, token, token + 1)[:, 0] for token in wanted.tolist()], dim=1)
    first = token_statistics(model, last, wanted[:1].expand(len(prompts))).log_probs
    return logits - (logits[:, 0] - first)[:, None], computed


def output_weight(model: Any) -> torch.Tensor:
    """[V, width] weight of the language-model head."""
    head = model.get_output_embeddings()
    if head is None:
        raise ValueError(f"{type(model).__name__} has no language-model head")
    weight: torch.Tensor = head.weight
    return weight


def _logits(model: Any, states: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    """float32 [rows, stop - start] of the head's logits, with the soft cap of models that have one."""
    head = model.get_output_embeddings()
    bias = None if head.bias is None else head.bias[start:stop]
    logits = torch.nn.functional.linear(states, head.weight[start:stop], bias).float()
    cap = getattr(model.config, "final_logit_softcapping", None)
    return torch.tanh(logits / cap) * cap if cap else logits
