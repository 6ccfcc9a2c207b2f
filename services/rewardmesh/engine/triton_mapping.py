"""How a reward model of a KServe v2 server (Triton and others) takes tokens and gives scores: the mapping, checked against its metadata."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from rewardmesh.engine.foreign import EngineOptions
from rewardmesh.engine.loading import LoadError
from rewardmesh.engine.packing import TokenIds
from rewardmesh.serving.validation import absence
from rewardmesh.v1 import common_pb2 as pb

_INTEGERS = ("INT64", "INT32")
_DTYPES: dict[str, Any] = {"INT64": np.int64, "INT32": np.int32, "BOOL": np.bool_, "FP32": np.float32}
_DEFAULT_ITEMS = 16


class TritonOptions(EngineOptions):
    """Settings of `engine: triton`."""

    model_name: str = Field(min_length=1, description="the server's name for the model")
    model_version: str = Field("", description='the server\'s version; empty: its choice; "same": the number of ours')
    token_ids: str = Field("input_ids", description="input tensor for padded token ids, INT32 or INT64 [n, L]; unused with `text`")
    mask: str = Field(
        "attention_mask", description="input tensor that is 1 where there is a token and 0 where there is padding; empty: none"
    )
    lengths: str = Field("", description="input tensor for the rows' lengths, INT32 or INT64 [n]; empty: none")
    text: str = Field("", description="input tensor for texts, BYTES [n], that the server tokenises itself; instead of token ids")
    pad_id: int | None = Field(None, ge=0, description="what rows are padded with; unset: the tokenizer's padding token, or 0")
    output: str = Field("logits", min_length=1, description="output tensor, FP16, FP32 or FP64 [n, outputs] or [n]")
    columns: list[int] = Field(default_factory=list, description="columns of the output that are the head's outputs; empty: all")
    output_is: Literal["logit", "probability"] = Field(
        description="what the output tensor holds: the head's raw outputs, or probabilities (after a sigmoid or softmax)"
    )
    convert: Literal["none", "logit"] = Field("none", description="logit: turn probabilities p into log(p / (1 - p))")
    absence: str = Field(
        "", description='output tensor with the reason why a row has no score, BYTES [n]: empty or JSON {"reason", "detail", "retryable"}'
    )
    items_per_request: int = Field(0, ge=0, description="most rows in a request; 0: the model's max_batch_size, or 16 where it tells none")
    max_in_flight: int = Field(4, ge=1, description="most requests at a time")
    timeout_s: float = Field(60.0, gt=0, description="longest time one request may take")

    @model_validator(mode="after")
    def _consistent(self) -> TritonOptions:
        if self.convert == "logit" and self.output_is == "logit":
            raise ValueError("convert: logit is for output_is: probability; logits need no conversion")
        if not self.text and not (self.mask or self.lengths):
            raise ValueError("mask and lengths are both empty: the server could not tell tokens from padding")
        names = [name for name in (self.token_ids, self.mask, self.lengths) if name]
        if not self.text and len(set(names)) < len(names):
            raise ValueError(f"token_ids, mask and lengths name a tensor twice: {', '.join(names)}")
        return self

    def check_scale(self, scale: str) -> None:
        """Refuse a scale that is not that of the numbers that come out; "" is a service that declares none.

        Raises:
            LoadError: they differ; says what would agree.
        """
        delivered = "probability" if self.output_is == "probability" and self.convert == "none" else "logit"
        if not scale or (scale == "logit") == (delivered == "logit"):
            return
        remedy = "set convert: logit, or scale: probability" if delivered == "probability" else "set scale: logit"
        raise LoadError(f"engine_options.output_is: the server gives a {delivered}, the service's scale is {scale}; {remedy}")


@dataclass(frozen=True)
class Mapping:
    """A mapping that the server's metadata agrees with.

    Attributes:
        datatypes: of the inputs that are sent, by name.
        shapes: of the same, as the server states them (-1 for any size).
        width: fixed length of the rows of token ids; 0 for any.
        columns: of the output.
        items: most rows in a request.
    """

    options: TritonOptions
    datatypes: dict[str, str]
    shapes: dict[str, tuple[int, ...]]
    width: int
    columns: tuple[int, ...]
    items: int

    @classmethod
    def of(cls, options: TritonOptions, metadata: Any, config: Any | None, outputs: int) -> Mapping:
        """Check the options.

        Args:
            metadata: the server's ModelMetadataResponse.
            config: its ModelConfig; None from a server that does not offer it.
            outputs: of the head, by the model directory.

        Raises:
            LoadError: a tensor that is missing, has another type or shape, or is not filled.
        """
        where = f"model {options.model_name!r}"
        inputs = {tensor.name: tensor for tensor in metadata.inputs}
        wanted: dict[str, Sequence[str]] = (
            {options.text: ("BYTES",)}
            if options.text
            else {options.token_ids: _INTEGERS, options.mask: (*_INTEGERS, "BOOL", "FP32"), options.lengths: _INTEGERS}
        )
        wanted.pop("", None)
        for name, kinds in wanted.items():
            if name not in inputs:
                raise LoadError(f"{where} has no input tensor {name!r}; it has {', '.join(inputs) or 'none'}")
            tensor = inputs[name]
            if tensor.datatype not in kinds:
                raise LoadError(f"input tensor {name!r} of {where} is {tensor.datatype}, must be {' or '.join(kinds)}")
            ranks = (2,) if name in (options.token_ids, options.mask) else (1, 2)
            if len(tensor.shape) not in ranks or (ranks != (2,) and tensor.shape[1:] not in ([], [1])):
                stated = "[n, L]" if ranks == (2,) else "[n] or [n, 1]"
                raise LoadError(f"input tensor {name!r} of {where} has shape {list(tensor.shape)}, must be {stated}")
        optional = {tensor.name for tensor in config.input if tensor.optional} if config is not None else set(inputs)
        unfilled = sorted(set(inputs) - set(wanted) - optional)
        if unfilled:
            raise LoadError(f"{where} also wants the input tensor {unfilled[0]!r}, which the mapping does not fill")
        return cls(
            options,
            {name: inputs[name].datatype for name in wanted},
            {name: tuple(inputs[name].shape) for name in wanted},
            0 if options.text else max(int(inputs[options.token_ids].shape[1]), 0),
            _columns(options, metadata, outputs),
            _items(options, config),
        )

    def inputs(self, rows: Sequence[TokenIds], pad_id: int) -> dict[str, npt.NDArray[Any]]:
        """The tensors of a request for rows of token ids, padded to the longest (or to the fixed width)."""
        options = self.options
        lengths = np.array([len(row) for row in rows])
        width = self.width or int(lengths.max())
        ids = np.full((len(rows), width), pad_id, np.int64)
        mask = np.arange(width)[None] < lengths[:, None]
        ids[mask] = np.concatenate([np.asarray(row, np.int64) for row in rows])
        tensors = {options.token_ids: ids, options.mask: mask, options.lengths: lengths}
        tensors.pop("", None)
        return {name: self._shaped(name, values.astype(_DTYPES[self.datatypes[name]])) for name, values in tensors.items()}

    def texts(self, rows: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
        """The tensors of a request for texts."""
        return {self.options.text: self._shaped(self.options.text, np.array([row.encode() for row in rows], dtype=np.object_))}

    def scores(self, output: npt.NDArray[Any] | None, rows: int) -> list[list[float]]:
        """The head's outputs of each row.

        Raises:
            ValueError: the server did not send the tensor, or one of another shape.
        """
        name = self.options.output
        if output is None:
            raise ValueError(f"the server sent no output tensor {name!r}")
        values = np.asarray(output, np.float64)
        values = values[:, None] if values.ndim == 1 else values
        if values.ndim != 2 or values.shape[0] != rows or values.shape[1] <= max(self.columns):
            raise ValueError(f"output tensor {name!r} has shape {list(values.shape)} for {rows} rows and columns {list(self.columns)}")
        values = values[:, list(self.columns)]
        if self.options.convert == "logit":
            with np.errstate(divide="ignore", invalid="ignore"):  # 0 and 1 become infinite, which is reported as such
                values = np.log(values) - np.log1p(-values)
        result: list[list[float]] = values.tolist()
        return result

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the output tensors to ask for."""
        return tuple(name for name in (self.options.output, self.options.absence) if name)

    def absences(self, output: npt.NDArray[Any] | None, rows: int) -> list[pb.Absence | None]:
        """Why each row has no score; None where it has one.

        Raises:
            ValueError: the server did not send the tensor, or nonsense.
        """
        if not self.options.absence:
            return [None] * rows
        if output is None or np.size(output) != rows:
            raise ValueError(f"the server sent no output tensor {self.options.absence!r} of {rows} rows")
        return [_absence(bytes(text)) if text else None for text in np.ravel(output)]

    def _shaped(self, name: str, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return values[:, None] if values.ndim == 1 and len(self.shapes[name]) == 2 else values


def _absence(text: bytes) -> pb.Absence:
    """The absence that a rewardmesh server wrote into its output `absence`."""
    about = json.loads(text)
    known = dict(pb.AbsenceReason.items())
    reason = known.get(f"ABSENCE_REASON_{str(about['reason']).upper()}", pb.ABSENCE_REASON_INFRASTRUCTURE)
    after = about.get("retry_after_seconds")
    return absence(reason, str(about.get("detail", "")), retryable=bool(about.get("retryable")), retry_after_s=after)


def _columns(options: TritonOptions, metadata: Any, outputs: int) -> tuple[int, ...]:
    where = f"model {options.model_name!r}"
    tensors = {tensor.name: tensor for tensor in metadata.outputs}
    if options.output not in tensors:
        raise LoadError(f"{where} has no output tensor {options.output!r}; it has {', '.join(tensors) or 'none'}")
    if options.absence and (options.absence not in tensors or tensors[options.absence].datatype != "BYTES"):
        raise LoadError(f"{where} has no output tensor {options.absence!r} of BYTES; it has {', '.join(tensors)}")
    tensor = tensors[options.output]
    if tensor.datatype not in ("FP16", "FP32", "FP64"):
        raise LoadError(f"output tensor {options.output!r} of {where} is {tensor.datatype}, must be FP16, FP32 or FP64")
    if len(tensor.shape) not in (1, 2):
        raise LoadError(f"output tensor {options.output!r} of {where} has shape {list(tensor.shape)}, must be [n, outputs] or [n]")
    stated = 1 if len(tensor.shape) == 1 else int(tensor.shape[1])
    columns = tuple(options.columns) or tuple(range(stated if stated > 0 else outputs))
    if (stated > 0 and max(columns) >= stated) or min(columns) < 0:
        raise LoadError(f"columns: output tensor {options.output!r} of {where} has {stated} columns, not {list(columns)}")
    if len(columns) != outputs:
        raise LoadError(
            f"columns: {len(columns)} of output tensor {options.output!r}, the head in the model directory has {outputs} outputs; "
            "name the columns that are its outputs"
        )
    return columns


def _items(options: TritonOptions, config: Any | None) -> int:
    most = int(config.max_batch_size) if config is not None else 0
    if most and options.items_per_request > most:
        raise LoadError(f"items_per_request: {options.items_per_request} is more than model {options.model_name!r} takes at once, {most}")
    return options.items_per_request or most or _DEFAULT_ITEMS
