"""The one forward pass behind rewards, log-probabilities and the training step.

Packed: the whole batch in one row, shared prefixes once (see `packing`). Plain: one sequence at a time with the model's own attention,
for models that cannot be packed. Whether a model can is found by trying: its packed and its plain answer to a small tree must agree.
A packed forward without gradients may be computed by the compiled library (see `native`), on the same terms.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from rewardmesh.engine.attention import PACKED
from rewardmesh.engine.last_layer import only_rows
from rewardmesh.engine.native import NativeDecoder, NativeError
from rewardmesh.engine.packing import Plan, TokenIds, make_plan
from rewardmesh.engine.prefix_cache import PrefixCache

PARITY = 1e-4
"""Greatest absolute difference (fp32) between packed and plain hidden states, relative to their scale, that counts as agreement."""


def hidden_states(model: Any, plan: Plan) -> torch.Tensor:
    """Last hidden states of a packed batch: [T, width]; rows that the plan does not want hold anything."""
    native = _native(model)
    if native is not None:
        return native.states(plan)
    device = next(model.parameters()).device
    wanted = None if plan.wanted is None else plan.wanted.to(device)
    with only_rows(model, wanted):
        out = model.base_model(
            input_ids=plan.token_ids.to(device)[None], position_ids=plan.position_ids.to(device)[None], use_cache=False, plan=plan
        )
    states: torch.Tensor = out.last_hidden_state[0]
    return states


def sequence_states(
    model: Any,
    sequences: Sequence[TokenIds],
    *,
    packed: bool,
    first: Sequence[int] | None = None,
    prefixes: PrefixCache | None = None,
) -> tuple[torch.Tensor, list[torch.Tensor], list[int]]:
    """Hidden states of sequences.

    Args:
        first: for each sequence the first position whose state is wanted; None wants all.
        prefixes: keys and values of earlier batches of this model, without gradients only.

    Returns:
        states [T, width]; for each sequence the int64 indices in `states` of its tokens from the first wanted one on; tokens
        really computed for each sequence.
    """
    if packed:
        plan = make_plan(sequences, first=first, prefixes=prefixes)
        states = hidden_states(model, plan)
        if prefixes is not None:
            prefixes.store(plan)
        return states, [plan.rows(i).to(states.device) for i in range(len(sequences))], plan.computed_by()
    device = next(model.parameters()).device
    parts = []
    for ids in sequences:
        batch = torch.as_tensor(np.asarray(ids, dtype=np.int64), device=device)[None]
        parts.append(model.base_model(input_ids=batch, use_cache=False).last_hidden_state[0])
    starts = np.cumsum([0, *(len(ids) for ids in sequences)])
    wanted = [0] * len(sequences) if first is None else first
    rows = [torch.arange(a + skipped, b, device=device) for (a, b), skipped in zip(itertools.pairwise(starts), wanted, strict=True)]
    return torch.cat(parts), rows, [len(ids) for ids in sequences]


def classification_scores(
    model: Any, sequences: Sequence[TokenIds], *, packed: bool, prefixes: PrefixCache | None = None
) -> tuple[torch.Tensor, list[int]]:
    """Output of a sequence-classification head at each sequence's last token.

    Returns:
        float32 [n, outputs]; tokens really computed for each sequence.
    """
    last = [len(ids) - 1 for ids in sequences]
    outputs, _, computed = classification_readings(model, sequences, last, packed=packed, prefixes=prefixes)
    return outputs, computed


def classification_readings(
    model: Any, sequences: Sequence[TokenIds], first: Sequence[int], *, packed: bool, prefixes: PrefixCache | None = None
) -> tuple[torch.Tensor, list[int], list[int]]:
    """Output of a sequence-classification head at each sequence's tokens from position `first` on.

    Returns:
        float32 [N, outputs], the tokens of one sequence after those of another; how many of each; tokens really computed for each.
    """
    states, rows, computed = sequence_states(model, sequences, packed=packed, first=first, prefixes=prefixes)
    wanted = states[torch.cat(rows)]
    native = _native(model)
    outputs = classification_head(model)(wanted).float() if native is None else native.outputs(wanted)
    return outputs, [len(places) for places in rows], computed


def classification_head(model: Any) -> torch.nn.Module:
    """The linear head of a transformers sequence-classification model."""
    for name in ("score", "classifier"):
        head = getattr(model, name, None)
        if isinstance(head, torch.nn.Module):
            return head
    raise ValueError(f"{type(model).__name__} has no sequence-classification head (score or classifier)")


def has_classification_head(model: Any) -> bool:
    """Whether it is a sequence-classification model."""
    return any(isinstance(getattr(model, name, None), torch.nn.Module) for name in ("score", "classifier"))


def classification_outputs(model: Any) -> int:
    """Number of outputs of the classification head."""
    weight: torch.Tensor = classification_head(model).weight  # type: ignore[assignment]
    return int(weight.shape[0])


def why_not_packed(model: Any) -> str:
    """Empty when the model's packed forward agrees with its plain one; else the reason.

    Leaves the model with the attention that it should be run with.
    """
    own = model.config._attn_implementation
    if own == PACKED:  # found out before
        return ""
    probe = _probe(model)
    with torch.inference_mode():
        plain, _, _ = sequence_states(model, probe, packed=False)
        try:
            model.set_attn_implementation(PACKED)
            if model.config._attn_implementation != PACKED:
                return "its attention does not go through transformers' AttentionInterface"
            states, rows, _ = sequence_states(model, probe, packed=True)
            packed = torch.cat([states[r] for r in rows])
            states, rows, _ = sequence_states(model, probe, packed=True, first=[len(ids) - 1 for ids in probe])
            last = torch.cat([states[r] for r in rows])
        except Exception as error:  # noqa: BLE001 - whatever an unknown architecture raises means the same: run it plainly
            model.set_attn_implementation(own)
            return f"its attention cannot be packed: {error}"
    ends = np.cumsum([len(ids) for ids in probe]) - 1
    difference = _difference(torch.cat([packed, last]), torch.cat([plain, plain[ends]]))
    tolerance = PARITY if plain.dtype == torch.float32 else 5e-2
    if not difference <= tolerance:
        model.set_attn_implementation(own)
        return f"packed and plain forward differ by {difference:.2g} (tolerance {tolerance:.0e})"
    return ""


def use_native(model: Any, threads: int = 0) -> str:
    """Let the compiled library compute a packed model's forward passes without gradients; empty, or the reason why it does not.

    The model's weights must not change from here on. They are in memory twice then.

    Args:
        threads: for all forwards that run at a time; 0 for torch's choice.
    """
    try:
        head = classification_head(model) if has_classification_head(model) else None
        decoder = NativeDecoder(model, head, threads or torch.get_num_threads())
    except NativeError as error:
        return str(error)
    probe = _probe(model)
    with torch.inference_mode():
        for first in (None, [len(ids) - 1 for ids in probe]):
            plan = make_plan(probe, first=first)
            wanted = slice(None) if plan.wanted is None else plan.wanted
            difference = _difference(decoder.states(plan)[wanted], hidden_states(model, plan)[wanted])
            if not difference <= PARITY:
                return f"native and packed forward differ by {difference:.2g} (tolerance {PARITY:.0e})"
    model.native_decoder = decoder
    return ""


def _native(model: Any) -> NativeDecoder | None:
    """What computes the model now: the library does without gradients."""
    return None if torch.is_grad_enabled() else getattr(model, "native_decoder", None)


def is_native(model: Any) -> bool:
    """Whether the compiled library computes the model's forward passes without gradients."""
    return getattr(model, "native_decoder", None) is not None


def use_torch(model: Any) -> None:
    """Let torch compute again, because the model's weights or layers are about to change."""
    model.native_decoder = None


def _probe(model: Any) -> list[list[int]]:
    """Three short sequences that share a prompt."""
    vocabulary = model.config.vocab_size
    generator = torch.Generator().manual_seed(0)
    prompt = torch.randint(0, vocabulary, (12,), generator=generator).tolist()
    return [prompt + torch.randint(0, vocabulary, (n,), generator=generator).tolist() for n in (5, 3, 7)]


def _difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Greatest absolute difference, relative to the scale of what is expected."""
    return float((found.float() - expected.float()).abs().max()) / max(float(expected.abs().max()), 1.0)
