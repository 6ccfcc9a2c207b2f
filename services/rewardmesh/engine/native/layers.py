"""Reads a transformers decoder into what the native forward computes with.

Known are the layouts of Llama (also Qwen2, Qwen3, Mistral, Gemma 1 to 3), Phi-3 (fused projections), and Phi and GPT-NeoX (LayerNorm,
parallel feed-forward blocks). What each layer asks of its attention (scale, window, soft cap) is found by watching a forward pass, and the
rotary embedding is computed by the model's own module, so no key of a config is interpreted here.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import pad
from transformers import AttentionInterface

from rewardmesh.engine.native.library import Decoder, Layer, NativeError, Norm, Shape, Weights

ARCHITECTURES = ("qwen2", "qwen3", "llama", "mistral", "gemma", "gemma2", "gemma3_text", "phi", "phi3", "gpt_neox")
ACTIVATIONS = {"silu": 0, "swish": 0, "gelu": 1, "gelu_new": 2, "gelu_fast": 2, "gelu_pytorch_tanh": 2, "relu": 3}
"""Numbers of vectors.h."""
_WATCHING = "rewardmesh_watching"

Matrix = tuple[torch.Tensor, torch.Tensor | None]
"""Weight [outputs, inputs] and bias [outputs] of a linear layer."""


@dataclass(frozen=True)
class _Asked:
    """What a layer asks of its attention; a window of 0 is none."""

    heads: int
    key_heads: int
    head_width: int
    scale: float
    window: int
    softcap: float


@dataclass(frozen=True)
class _Parts:
    """What a layer consists of; None where the architecture has no such part."""

    query: Matrix
    key: Matrix
    value: Matrix
    output: Matrix
    gate: Matrix | None
    up: Matrix
    down: Matrix
    before_attention: torch.nn.Module
    before_mlp: torch.nn.Module
    after_attention: torch.nn.Module | None = None
    after_mlp: torch.nn.Module | None = None
    query_norm: torch.nn.Module | None = None
    key_norm: torch.nn.Module | None = None


class NativeWeights:
    """A decoder's weights as the library takes them; in memory beside the model's own.

    Args:
        model: float32, on the CPU, of one of `ARCHITECTURES`.
        head: its linear classification head; None for a model without one.
        lanes: of the library's vectors.

    Attributes:
        decoder: the structure; its pointers live as long as this object.
        head: what turns final states into the head's outputs; None without one.
        ropes: the types of layers that have rotary embeddings of their own, as the model's rotary module takes them; [None] for one in all.

    Raises:
        NativeError: a part that the library does not know.
    """

    def __init__(self, model: Any, head: torch.nn.Module | None, lanes: int) -> None:
        self._lanes = lanes
        self._kept: list[torch.Tensor] = []
        base, config = model.base_model, model.config
        asked = _watched(model)
        layers = [_parts(config.model_type, layer, asked[i]) for i, layer in enumerate(base.layers)]
        norms = [*(layer.before_attention for layer in layers), _final_norm(base)]
        epsilons = {_epsilon(norm) for norm in norms}
        if len(epsilons) > 1 or len({(one.scale, one.softcap) for one in asked}) > 1:
            raise NativeError("its layers differ in their epsilons, scales or soft caps")
        activation = getattr(config, "hidden_activation", None) or config.hidden_act
        if activation not in ACTIVATIONS:
            raise NativeError(f"its activation {activation!r} is not one of {', '.join(ACTIVATIONS)}")
        types = [getattr(getattr(layer, "self_attn", None), "layer_type", None) for layer in base.layers]
        self.ropes: list[str | None] = list(dict.fromkeys(types)) if hasattr(base.rotary_emb, "layer_types") else [None]
        one = asked[0]
        shape = Shape(
            layers=len(layers),
            width=config.hidden_size,
            heads=one.heads,
            key_heads=one.key_heads,
            head_width=one.head_width,
            rotary_width=self.rotary(model, torch.zeros(1, dtype=torch.int64))[0].shape[-1],
            feed_forward=layers[0].down[0].shape[1],
            normalisation=int(isinstance(norms[0], torch.nn.LayerNorm)),
            activation=ACTIVATIONS[activation],
            gated=layers[0].gate is not None,
            parallel=config.model_type == "phi" or bool(getattr(config, "use_parallel_residual", False)),
            epsilon=epsilons.pop(),
            scale=one.scale,
            softcap=one.softcap,
        )
        self._layers = (Layer * len(layers))(*(self._layer(*each) for each in zip(layers, asked, types, strict=True)))
        self.decoder = Decoder(shape, self._layers, self._norm(norms[-1]))
        self.head = None if head is None else self._weights(_matrix(head))

    @property
    def bytes(self) -> int:
        """Memory that it takes."""
        return sum(tensor.nbytes for tensor in self._kept)

    def rotary(self, model: Any, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines [ropes, n, rotary width], float32, of int64 positions [n]."""
        module, like = model.base_model.rotary_emb, torch.empty(0)
        pairs = [module(like, positions[None], *((kind,) if kind else ())) for kind in self.ropes]
        return torch.cat([cosines for cosines, _ in pairs]), torch.cat([sines for _, sines in pairs])

    def _layer(self, parts: _Parts, asked: _Asked, kind: str | None) -> Layer:
        both = _joined([parts.key, parts.value])
        up = self._gated(parts.gate, parts.up) if parts.gate else self._weights(parts.up)
        return Layer(
            before_attention=self._norm(parts.before_attention),
            query=self._norm(parts.query_norm),
            key=self._norm(parts.key_norm),
            after_attention=self._norm(parts.after_attention),
            before_mlp=self._norm(parts.before_mlp),
            after_mlp=self._norm(parts.after_mlp),
            queries=self._weights(parts.query),
            keys_values=self._weights(both),
            output=self._weights(parts.output),
            up=up,
            down=self._weights(parts.down),
            window=asked.window,
            rope=self.ropes.index(kind) if kind in self.ropes else 0,
        )

    def _norm(self, module: torch.nn.Module | None) -> Norm:
        if module is None:
            return Norm(None, None)
        weight: Any = module.weight
        # Gemma's weights are the difference from one.
        scale = weight.detach() + 1.0 if type(module).__name__.startswith("Gemma") else weight.detach()
        bias: Any = getattr(module, "bias", None)
        return Norm(self._pointer(scale), None if bias is None else self._pointer(bias.detach()))

    def _weights(self, matrix: Matrix) -> Weights:
        weight, bias = matrix
        columns = 2 * self._lanes
        spare = -len(weight) % columns
        padded = pad(weight.detach(), (0, 0, 0, spare))
        panels = padded.view(-1, columns, weight.shape[1]).transpose(1, 2)
        biases = torch.zeros(len(padded)) if bias is None else pad(bias.detach(), (0, spare))
        return Weights(self._pointer(panels), self._pointer(biases), weight.shape[1], len(padded))

    def _gated(self, gate: Matrix, up: Matrix) -> Weights:
        """Panels of which one half is the gate and the other what it gates."""
        spare = -len(up[0]) % self._lanes
        weights = [pad(weight.detach(), (0, 0, 0, spare)).view(-1, self._lanes, weight.shape[1]) for weight, _ in (gate, up)]
        biases = [torch.zeros(len(weight)) if bias is None else bias.detach() for weight, bias in (gate, up)]
        both = [pad(bias, (0, spare)).view(-1, self._lanes) for bias in biases]
        return self._weights((torch.stack(weights, 1).flatten(0, 2), torch.stack(both, 1).flatten()))

    def _pointer(self, tensor: torch.Tensor) -> ctypes.c_void_p:
        own = tensor.contiguous()
        self._kept.append(own)
        return ctypes.c_void_p(own.data_ptr())


def _parts(kind: str, layer: Any, asked: _Asked) -> _Parts:
    if kind == "gpt_neox":
        return _gpt_neox(layer, asked)
    attention, mlp = layer.self_attn, layer.mlp
    if kind == "phi":
        return _Parts(
            query=_matrix(attention.q_proj),
            key=_matrix(attention.k_proj),
            value=_matrix(attention.v_proj),
            output=_matrix(attention.dense),
            gate=None,
            up=_matrix(mlp.fc1),
            down=_matrix(mlp.fc2),
            before_attention=layer.input_layernorm,
            before_mlp=layer.input_layernorm,
            query_norm=getattr(attention, "q_layernorm", None),
            key_norm=getattr(attention, "k_layernorm", None),
        )
    if kind == "phi3":
        ends = (asked.heads * asked.head_width, (asked.heads + asked.key_heads) * asked.head_width)
        query, key, value = _split(_matrix(attention.qkv_proj), ends)
        gate, up = _split(_matrix(mlp.gate_up_proj), (mlp.down_proj.in_features,))
    else:
        query, key, value = (_matrix(module) for module in (attention.q_proj, attention.k_proj, attention.v_proj))
        gate, up = _matrix(mlp.gate_proj), _matrix(mlp.up_proj)
    four = kind in ("gemma2", "gemma3_text")
    return _Parts(
        query=query,
        key=key,
        value=value,
        output=_matrix(attention.o_proj),
        gate=gate,
        up=up,
        down=_matrix(mlp.down_proj),
        before_attention=layer.input_layernorm,
        before_mlp=layer.pre_feedforward_layernorm if four else layer.post_attention_layernorm,
        after_attention=layer.post_attention_layernorm if four else None,
        after_mlp=layer.post_feedforward_layernorm if four else None,
        query_norm=getattr(attention, "q_norm", None),
        key_norm=getattr(attention, "k_norm", None),
    )


def _gpt_neox(layer: Any, asked: _Asked) -> _Parts:
    # One matrix holds query, key and value of the first head, then of the second, and so on.
    weight, bias = _matrix(layer.attention.query_key_value)
    weights = weight.view(asked.heads, 3, asked.head_width, -1)
    biases = None if bias is None else bias.view(asked.heads, 3, asked.head_width)
    query, key, value = ((weights[:, i].flatten(0, 1), None if biases is None else biases[:, i].flatten()) for i in range(3))
    return _Parts(
        query=query,
        key=key,
        value=value,
        output=_matrix(layer.attention.dense),
        gate=None,
        up=_matrix(layer.mlp.dense_h_to_4h),
        down=_matrix(layer.mlp.dense_4h_to_h),
        before_attention=layer.input_layernorm,
        before_mlp=layer.post_attention_layernorm,
    )


def _matrix(module: Any) -> Matrix:
    if not isinstance(module, torch.nn.Linear) or module.weight.dtype != torch.float32:
        raise NativeError(f"it has a {type(module).__name__} where a float32 linear layer is expected")
    return module.weight, module.bias


def _joined(matrices: Iterable[Matrix]) -> Matrix:
    weights, biases = zip(*matrices, strict=True)
    return torch.cat(weights), None if biases[0] is None else torch.cat(biases)


def _split(matrix: Matrix, ends: tuple[int, ...]) -> list[Matrix]:
    weight, bias = matrix
    biases = [None] * (len(ends) + 1) if bias is None else bias.tensor_split(ends)
    return list(zip(weight.tensor_split(ends), biases, strict=True))


def _final_norm(base: Any) -> torch.nn.Module:
    for name in ("norm", "final_layernorm", "final_layer_norm"):
        found = getattr(base, name, None)
        if isinstance(found, torch.nn.Module):
            return found
    raise NativeError("its final normalisation was not found")


def _epsilon(norm: Any) -> float:
    return float(getattr(norm, "variance_epsilon", None) or norm.eps)


def _watched(model: Any) -> list[_Asked]:
    """What every layer asks of its attention, seen in a forward pass of one token."""
    found: dict[int, _Asked] = {}
    own = model.config._attn_implementation
    model.set_attn_implementation(_WATCHING)
    try:
        with torch.inference_mode():
            model.base_model(input_ids=torch.zeros(1, 1, dtype=torch.int64), use_cache=False, watched=found)
    finally:
        model.set_attn_implementation(own)
    return [found[i] for i in range(len(found))]


def _watch(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: Any,
    *,
    watched: dict[int, _Asked],
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """An attention that notes what it is asked; several models may be read at the same time."""
    if s_aux is not None:
        raise NativeError("its attention has sinks")
    heads, width = query.shape[1], query.shape[3]
    scale = width**-0.5 if scaling is None else scaling
    watched[module.layer_idx] = _Asked(heads, key.shape[1], width, float(scale), sliding_window or 0, float(softcap or 0))
    return query.transpose(1, 2), None


AttentionInterface.register(_WATCHING, _watch)
