"""Tensors of the Open Inference Protocol (KServe v2): from the two forms a request may have to numpy, and back.

Typed contents have a field for each datatype; raw contents are little-endian bytes, row-major, where an element of BYTES is its length
(4 bytes) and its bytes, and one of BOOL is one byte.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rewardmesh.serving.errors import invalid_argument, unimplemented

_DTYPES: Mapping[str, Any] = {"BOOL": "?", "INT32": "<i4", "INT64": "<i8", "FP32": "<f4"}
_CONTENTS = {
    "BOOL": "bool_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "BYTES": "bytes_contents",
}


@dataclass(frozen=True)
class Tensor:
    """One named tensor. values: numpy for numbers, a flat list of bytes for BYTES."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: Any


def read_inputs(request: Any, known: Mapping[str, Sequence[str]]) -> dict[str, Tensor]:
    """The inputs of a ModelInferRequest by name.

    Args:
        known: datatypes that each input may have.

    Raises:
        CallError: INVALID_ARGUMENT naming the input, UNIMPLEMENTED for shared memory.
    """
    raw = list(request.raw_input_contents)
    if raw and len(raw) != len(request.inputs):
        raise invalid_argument("raw_input_contents", f"holds {len(raw)} tensors for {len(request.inputs)} inputs")
    found: dict[str, Tensor] = {}
    for index, tensor in enumerate(request.inputs):
        field = f"inputs[{tensor.name}]"
        if tensor.name not in known:
            raise invalid_argument(field, f"is no input of the model; its inputs are {', '.join(known)}")
        if tensor.name in found:
            raise invalid_argument(field, "is given twice")
        if tensor.datatype not in known[tensor.name]:
            raise invalid_argument(f"{field}.datatype", f"{tensor.datatype!r} is not {' or '.join(known[tensor.name])}")
        if "shared_memory_region" in tensor.parameters:
            raise unimplemented(f"{field}: shared memory")
        shape = tuple(tensor.shape)
        if any(size < 0 for size in shape):
            raise invalid_argument(f"{field}.shape", f"{list(shape)} has a negative size")
        if raw and tensor.HasField("contents"):
            raise invalid_argument(field, "has both contents and raw contents")
        values = _from_raw(raw[index], tensor.datatype, field) if raw else _from_contents(tensor, field)
        count = 1
        for size in shape:
            count *= size
        if len(values) != count:
            raise invalid_argument(f"{field}.shape", f"{list(shape)} stands for {count} elements, there are {len(values)}")
        found[tensor.name] = Tensor(tensor.name, tensor.datatype, shape, values if tensor.datatype == "BYTES" else values.reshape(shape))
    return found


def texts(tensor: Tensor) -> list[str]:
    """The elements of a BYTES tensor of shape [n] or [n, 1] as text.

    Raises:
        CallError: INVALID_ARGUMENT for another shape, or naming the element that is not UTF-8.
    """
    if len(tensor.shape) not in (1, 2) or tensor.shape[1:] not in ((), (1,)):
        raise invalid_argument(f"inputs[{tensor.name}].shape", f"{list(tensor.shape)} is not [n]")
    found = []
    for index, value in enumerate(tensor.values):
        try:
            found.append(value.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise invalid_argument(f"inputs[{tensor.name}][{index}]", f"is not UTF-8 (byte {error.start})") from error
    return found


def write_outputs(response: Any, outputs: Iterable[Tensor], *, raw: bool) -> None:
    """Add outputs to a ModelInferResponse."""
    for tensor in outputs:
        message = response.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        if raw:
            response.raw_output_contents.append(_to_raw(tensor))
        else:
            values = tensor.values if tensor.datatype == "BYTES" else tensor.values.reshape(-1).tolist()
            getattr(message.contents, _CONTENTS[tensor.datatype]).extend(values)


def _from_raw(data: bytes, datatype: str, field: str) -> Any:
    if datatype == "BYTES":
        return _split(data, field)
    dtype = np.dtype(_DTYPES[datatype])
    if len(data) % dtype.itemsize:
        raise invalid_argument(field, f"{len(data)} bytes are no whole number of {datatype} elements")
    return np.frombuffer(data, dtype)


def _split(data: bytes, field: str) -> list[bytes]:
    found: list[bytes] = []
    at = 0
    while at < len(data):
        if at + 4 > len(data):
            raise invalid_argument(field, f"ends within the length of element {len(found)}")
        (length,) = struct.unpack_from("<I", data, at)
        at += 4
        if at + length > len(data):
            raise invalid_argument(field, f"element {len(found)} has {length} bytes, {len(data) - at} are left")
        found.append(data[at : at + length])
        at += length
    return found


def _from_contents(tensor: Any, field: str) -> Any:
    wanted = _CONTENTS[tensor.datatype]
    other = [descriptor.name for descriptor, _ in tensor.contents.ListFields() if descriptor.name != wanted]
    if other:
        raise invalid_argument(f"{field}.contents", f"{tensor.datatype} elements belong into {wanted}, not {other[0]}")
    values = list(getattr(tensor.contents, wanted))
    return values if tensor.datatype == "BYTES" else np.array(values, _DTYPES[tensor.datatype])


def _to_raw(tensor: Tensor) -> bytes:
    if tensor.datatype == "BYTES":
        return b"".join(struct.pack("<I", len(value)) + value for value in tensor.values)
    array: NDArray[Any] = np.ascontiguousarray(tensor.values, _DTYPES[tensor.datatype])
    return array.tobytes()
