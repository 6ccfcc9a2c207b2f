"""Token log-probabilities in vocabulary chunks: memory stays bounded at any vocabulary size.

The log-sum-exp over the vocabulary is accumulated chunk by chunk (rows x vocabulary), and the statistics come out of the same pass:
entropy H = lse - E_p[z], self-certainty KL(U||p) = lse - mean(z) - log V, margin = difference of the two greatest log-probabilities.
Temperature divides the logits first. On a CPU a chunk of logits is as large as the fast cache, so that the passes over it cost little
beside the matrix product that made it. A state from which several tokens are asked for meets the vocabulary once.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from rewardmesh.engine.forward import sequence_states
from rewardmesh.engine.linear import linear
from rewardmesh.engine.log_prob_gradient import LogitRule, token_log_probs
from rewardmesh.engine.packing import TokenIds
from rewardmesh.engine.prefix_cache import PrefixCache

CPU_CHUNK = (256, 2048)
"""Rows and columns of the logits that are alive at a time, for each thread: 2 MiB, which stays in the cache."""
DEVICE_CHUNK = (1024, 16384)
"""The same on an accelerator, where few large kernels are better."""
_FEW, _BLOCK = 4, 16

Extra = Literal["entropy", "self_certainty", "margin"]
"""A statistic of the next-token distribution that can be asked for beside the log-probability."""


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
    model: Any, pairs: Sequence[tuple[TokenIds, TokenIds]], *, packed: bool, prefixes: PrefixCache | None = None
) -> tuple[torch.Tensor, torch.Tensor, list[int], list[int]]:
    """Hidden states that predict every completion token.

    Args:
        pairs: (prompt ids, completion ids), neither empty.

    Returns:
        states [N, width]; the N completion tokens int64; the completions' lengths; tokens really
        computed for each pair.
    """
    states, rows, targets, lengths, computed = _completion_rows(model, pairs, packed=packed, prefixes=prefixes)
    return states[rows], targets, lengths, computed


def _completion_rows(
    model: Any, pairs: Sequence[tuple[TokenIds, TokenIds]], *, packed: bool, prefixes: PrefixCache | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[int], list[int]]:
    """Hidden states [T, width], and for each of the N completion tokens the row of the state that predicts it; else as above."""
    # The last completion token predicts nothing that is asked for: it is never computed.
    inputs = [np.concatenate([np.asarray(p, np.int64), np.asarray(c, np.int64)[:-1]]) for p, c in pairs]
    first = [len(p) - 1 for p, _ in pairs]
    states, rows, computed = sequence_states(model, inputs, packed=packed, first=first, prefixes=prefixes)
    targets = torch.from_numpy(np.concatenate([np.asarray(c, np.int64) for _, c in pairs])).to(states.device)
    return states, torch.cat(rows), targets, [len(c) for _, c in pairs], computed


def completion_statistics(
    model: Any,
    pairs: Sequence[tuple[TokenIds, TokenIds]],
    *,
    packed: bool,
    prefixes: PrefixCache | None = None,
    temperature: float = 1.0,
    extras: Collection[Extra] = (),
    top_k: int = 0,
) -> tuple[list[TokenStatistics], list[int]]:
    """Statistics of every pair's completion tokens on the CPU, and the tokens really computed for each pair."""
    states, rows, targets, lengths, computed = _completion_rows(model, pairs, packed=packed, prefixes=prefixes)
    stats = token_statistics(model, states, targets, rows=rows, temperature=temperature, extras=extras, top_k=top_k)
    return stats.split(lengths), computed


def token_statistics(
    model: Any,
    states: torch.Tensor,
    targets: torch.Tensor,
    *,
    rows: torch.Tensor | None = None,
    temperature: float = 1.0,
    extras: Collection[Extra] = (),
    top_k: int = 0,
) -> TokenStatistics:
    """Statistics of several tokens, without gradients, in bounded memory.

    Args:
        states: hidden states [T, width].
        targets: int64 [N], the tokens.
        rows: int64 [N], which state predicts each; None when states and targets correspond one to one.
        extras, top_k: what is wanted beside; only that is computed.
    """
    if not len(targets):
        rows, needed = torch.arange(0, device=states.device), torch.arange(0, device=states.device)
    elif rows is None:
        rows = needed = torch.arange(len(targets), device=states.device)
    else:
        needed, rows = torch.unique(rows, return_inverse=True)
    # Targets of a state in a run, so that every chunk of states has a range of them.
    order = rows.argsort(stable=True)
    sorted_rows, sorted_targets = rows[order], targets[order]
    chunk, width = _chunk_sizes(states.device)
    parts = []
    for start in range(0, max(len(needed), 1), chunk):
        here = needed[start : start + chunk]
        first, last = torch.searchsorted(sorted_rows, torch.tensor([start, start + len(here)], device=rows.device)).tolist()
        owners = sorted_rows[first:last] - start
        parts.append(_chunk_statistics(model, states[here], owners, sorted_targets[first:last], width, temperature, extras, top_k))
    back = torch.empty_like(order)
    back[order] = torch.arange(len(order), device=order.device)
    fields: dict[str, Any] = {}
    for name in TokenStatistics.__dataclass_fields__:
        values = [getattr(part, name) for part in parts]
        fields[name] = None if values[0] is None else torch.cat(values)[back]
    return TokenStatistics(**fields)


def _chunk_sizes(device: torch.device) -> tuple[int, int]:
    """Rows and columns of a chunk of logits."""
    if device.type != "cpu":
        return DEVICE_CHUNK
    return CPU_CHUNK[0], CPU_CHUNK[1] * min(torch.get_num_threads(), 16)


def _chunk_statistics(
    model: Any,
    states: torch.Tensor,
    owners: torch.Tensor,
    targets: torch.Tensor,
    width: int,
    temperature: float,
    extras: Collection[Extra],
    top_k: int,
) -> TokenStatistics:
    """Statistics of `targets` [n], each predicted by the state at its place in `owners`; the vocabulary in runs of `width`."""
    vocabulary = output_weight(model).shape[0]
    rows, device = len(states), states.device
    entropy, certainty, keep = "entropy" in extras, "self_certainty" in extras, max(top_k, 2 if "margin" in extras else 0)
    greatest = torch.full((rows,), -math.inf, device=device)
    # Of exp(z - greatest), and of (z - greatest) exp(z - greatest), over the columns so far.
    total, weighted = torch.zeros(rows, device=device), torch.zeros(rows, device=device)
    plain = torch.zeros(rows, dtype=torch.float64, device=device)
    chosen = torch.full((len(targets),), math.nan, device=device)
    top = torch.empty(rows, 0, device=device)
    top_ids = torch.empty(rows, 0, dtype=torch.int64, device=device)
    for start in range(0, vocabulary, width):
        stop = min(start + width, vocabulary)
        logits = _logits(model, states, start, stop)
        if temperature != 1:
            logits.div_(temperature)
        columns = targets - start
        inside = (columns >= 0) & (columns < stop - start)
        chosen = torch.where(inside, logits[owners, columns.clamp_(0, stop - start - 1)], chosen)
        if keep:
            values, ids = _greatest(logits, min(keep, stop - start))
            joined, joined_ids = torch.cat([top, values], dim=1), torch.cat([top_ids, ids + start], dim=1)
            top, index = joined.topk(min(keep, joined.shape[1]), dim=1)
            top_ids = joined_ids.gather(1, index)
            peak = values[:, 0]
        else:
            peak = logits.amax(dim=1)
        shifted = logits.sub_(peak[:, None])
        if certainty:
            plain += shifted.sum(dim=1).double() + (stop - start) * peak.double()
        weights = shifted.exp() if entropy else shifted.exp_()
        mass = weights.sum(dim=1)
        highest = torch.maximum(greatest, peak)
        old, new = torch.exp(greatest - highest), torch.exp(peak - highest)
        if entropy:
            before = old * (weighted + total * (greatest - highest)) if start else weighted
            weighted = before + new * (torch.linalg.vecdot(weights, shifted) + mass * (peak - highest))
        total = total * old + mass * new
        greatest = highest
    lse = greatest + total.log()
    return TokenStatistics(
        log_probs=chosen - lse[owners],
        entropy=(total.log() - weighted / total)[owners] if entropy else None,
        self_certainty=(lse.double() - plain / vocabulary - math.log(vocabulary)).float()[owners] if certainty else None,
        margin=(top[:, 0] - top[:, 1])[owners] if "margin" in extras else None,
        top_ids=top_ids[owners, :top_k] if top_k else None,
        top_log_probs=(top - lse[:, None])[owners, :top_k] if top_k else None,
    )


def _greatest(logits: torch.Tensor, keep: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The `keep` greatest of each row, descending, and their columns.

    For few of them: whatever is among the greatest lies in one of the `keep` blocks with the greatest maxima, and maxima are cheap.
    """
    rows, columns = logits.shape
    if keep > _FEW or columns % _BLOCK or columns // _BLOCK < keep:
        return logits.topk(keep, dim=1)
    blocks = logits.view(rows, _BLOCK, -1)  # a block is every so many columns, so that its maximum is taken across vectors
    best = blocks.amax(dim=1).topk(keep, dim=1).indices
    candidates = blocks.gather(2, best[:, None].expand(-1, _BLOCK, -1)).flatten(1)
    values, place = candidates.topk(keep, dim=1)
    return values, place // keep * (columns // _BLOCK) + best.gather(1, place % keep)


def differentiable_log_probs(model: Any, states: torch.Tensor, targets: torch.Tensor, *, temperature: float = 1.0) -> torch.Tensor:
    """float32 [N] log-probabilities with gradients, of `targets` int64 [N] after `states` [N, width]; see `log_prob_gradient`."""
    head = model.get_output_embeddings()
    return token_log_probs(states, output_weight(model), head.bias, targets, _rule(model, temperature))


def next_token_log_probs(
    model: Any, prompts: Sequence[TokenIds], token_ids: Sequence[int], *, packed: bool, prefixes: PrefixCache | None = None
) -> tuple[torch.Tensor, list[int]]:
    """Log-probabilities of a few tokens right after each prompt, over the whole vocabulary.

    Returns:
        float32 [n, len(token_ids)], nats; tokens really computed for each prompt.
    """
    ends = [len(ids) - 1 for ids in prompts]
    states, rows, computed = sequence_states(model, prompts, packed=packed, first=ends, prefixes=prefixes)
    last = states[torch.cat(rows)]
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


def head_logits(model: Any, states: torch.Tensor) -> torch.Tensor:
    """float32 [rows, V]: logits over the whole vocabulary."""
    return _logits(model, states, 0, output_weight(model).shape[0])


def _logits(model: Any, states: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    """float32 [rows, stop - start] of the head's logits, with the soft cap of models that have one."""
    head = model.get_output_embeddings()
    bias = None if head.bias is None else head.bias[start:stop]
    logits = linear(states, head.weight[start:stop], bias).float()  # new memory: callers may overwrite it
    rule = _rule(model, 1.0)
    if rule.scale != 1:
        logits.mul_(rule.scale)
    return torch.tanh(logits / rule.cap) * rule.cap if rule.cap else logits


def _rule(model: Any, temperature: float) -> LogitRule:
    """What the model makes of its head's products: Cohere and Granite scale them, Gemma 2 caps them."""
    scale = (getattr(model, "logit_scale", None) or 1.0) / (getattr(model.config, "logits_scaling", None) or 1.0)
    return LogitRule(scale, getattr(model.config, "final_logit_softcapping", None) or None, temperature)


def why_no_logits(model: Any) -> str:
    """Empty when the head's logits are the model's; else the reason. To be asked while the model has its own attention.

    Some architectures do more to the logits than the product with the head, and log-probabilities would silently be others.
    """
    ids = torch.arange(min(8, model.config.vocab_size), device=next(model.parameters()).device)[None]
    with torch.inference_mode():
        expected = model(input_ids=ids, use_cache=False).logits[0].float()
        found = head_logits(model, model.base_model(input_ids=ids, use_cache=False).last_hidden_state[0])
    difference = float((found - expected).abs().max()) / max(float(expected.abs().max()), 1.0)
    tolerance = 1e-4 if output_weight(model).dtype == torch.float32 else 5e-2
    if not bool(torch.isfinite(expected).all()):
        return ""  # nothing to compare; its answers will be absences
    return "" if difference <= tolerance else f"its logits are not those of its head: they differ by {difference:.2g}"
