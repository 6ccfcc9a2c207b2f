"""What caches have to know about models: what identifies one, and how token statistics become bytes."""

from __future__ import annotations

import struct

import numpy as np
import torch

from rewardmesh.engine.interface import ServedModel
from rewardmesh.engine.log_probs import TokenStatistics
from rewardmesh.serving.caching import CorruptValueError, KeyMaker
from rewardmesh.serving.caching.keys import Option

_HEAD = struct.Struct("<BII")  # which fields there are, N, k
_FIELDS = ("log_probs", "entropy", "self_certainty", "margin", "top_log_probs", "top_ids")


def model_keys(service: str, model: ServedModel, kind: str, **options: Option) -> KeyMaker:
    """Makes cache keys for what a model computes: its weights (by fingerprint), and whatever else rounding depends on."""
    device = model.device_name.partition(":")[0]
    identity = [model.fingerprint, model.engine, model.dtype, device, "packed" if model.packed else "plain"]
    return KeyMaker(service, identity, kind, **options)


class TokenStatisticsCodec:
    """`TokenStatistics` as little-endian float32, ids as int32; fields that were not asked for stay None."""

    kind = 2

    def encode(self, value: TokenStatistics) -> bytes | None:
        """See `Codec`."""
        tensors = [getattr(value, name) for name in _FIELDS]
        if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors if tensor is not None):
            return None
        present = sum(1 << bit for bit, tensor in enumerate(tensors) if tensor is not None)
        top = 0 if value.top_ids is None else int(value.top_ids.shape[1])
        arrays = [(name, tensor.numpy()) for name, tensor in zip(_FIELDS, tensors, strict=True) if tensor is not None]
        head = _HEAD.pack(present, len(value.log_probs), top)
        return head + b"".join(array.astype(_number(name)).tobytes() for name, array in arrays)

    def decode(self, data: bytes) -> TokenStatistics:
        """See `Codec`."""
        if len(data) < _HEAD.size:
            raise CorruptValueError(f"{len(data)} bytes are no token statistics")
        present, rows, top = _HEAD.unpack_from(data)
        shapes = {name: (rows, top) if name.startswith("top_") else (rows,) for bit, name in enumerate(_FIELDS) if present >> bit & 1}
        expected = _HEAD.size + 4 * sum(rows * shape[-1] if len(shape) == 2 else rows for shape in shapes.values())
        if present >> len(_FIELDS) or "log_probs" not in shapes or len(data) != expected:
            raise CorruptValueError(f"{len(data)} bytes are no statistics of {rows} tokens")
        fields = {}
        offset = _HEAD.size
        for name, shape in shapes.items():
            array = np.frombuffer(data, _number(name), count=int(np.prod(shape)), offset=offset).reshape(shape)
            offset += array.nbytes
            fields[name] = torch.from_numpy(array.astype(np.int64 if name == "top_ids" else np.float32))
        return TokenStatistics(**fields)


def _number(field: str) -> str:
    return "<i4" if field == "top_ids" else "<f4"
