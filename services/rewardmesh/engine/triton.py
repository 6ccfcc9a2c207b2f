"""`engine: triton`: a reward model of a KServe v2 server (Triton, or another of the kind), called by tritonclient over gRPC.

The directory in `model` gives tokenizer, context and the head's outputs; the server computes. Which tensors it takes and gives is said
in `engine_options` (see `TritonOptions`) and checked when the model is opened. Raw outputs are delivered: whether the server's are raw
or probabilities must be stated, nothing is guessed from the numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from rewardmesh.engine.config import ModelServerConfig
from rewardmesh.engine.foreign import ForeignModel, read_options
from rewardmesh.engine.interface import ServedModel
from rewardmesh.engine.loading import Kind, LoadError
from rewardmesh.engine.packing import TokenIds
from rewardmesh.engine.triton_mapping import Mapping, TritonOptions
from rewardmesh.serving.errors import ItemsLostError
from rewardmesh.serving.validation import absence
from rewardmesh.v1 import common_pb2 as pb

ENGINE = "triton"
_PASSING = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "RESOURCE_EXHAUSTED")
"""Statuses that say nothing about the items: the same request may succeed later."""

Answer = tuple[list[float], int] | pb.Absence


class TritonModel(ForeignModel):
    """One model of a KServe v2 server.

    Args:
        client: to the server; closed with the model.
        scale: of the service, "" when it declares none.

    Raises:
        LoadError: the server or model is not ready, or the mapping does not fit its tensors.
    """

    engine = ENGINE

    def __init__(
        self,
        source: str,
        client: InferenceServerClient,
        options: TritonOptions,
        *,
        scale: str,
        name: str,
        version: int,
        extras: Iterable[str],
    ) -> None:
        options.check_scale(scale)
        self._client = client
        self._options = options
        self._server_version = _server_version(options, version)
        served = f"{ENGINE} {options.model_name} {self._server_version} {options.output} {options.columns} {options.convert}"
        super().__init__(source, "classification", name=name, version=version, extras=(*extras, served))
        self._mapping = self._check(len(super().output_names))
        self._pool = ThreadPoolExecutor(options.max_in_flight, thread_name_prefix=f"{ENGINE}-{options.model_name}")
        pad = getattr(self.tokenizer, "pad_token_id", None)
        self._pad_id = options.pad_id if options.pad_id is not None else int(pad or 0)

    @property
    def max_tokens(self) -> int:
        """Longest input in tokens: the model's context, or the fixed length of the server's rows."""
        return min(super().max_tokens, self._mapping.width) if self._mapping.width else super().max_tokens

    def scores(self, sequences: Sequence[TokenIds]) -> list[tuple[list[float], int]]:
        """See `ServedModel`; rows of like length travel together, several requests at a time.

        Raises:
            ItemsLostError: some have no scores; the others' are in it.
        """
        order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
        size = self._mapping.items
        runs = [order[start : start + size] for start in range(0, len(order), size)]
        answers: list[Answer | None] = [None] * len(sequences)
        for run, results in zip(runs, self._pool.map(lambda run: self._ask([sequences[i] for i in run]), runs), strict=True):
            for index, answer in zip(run, results, strict=True):
                answers[index] = answer
        found = [answer for answer in answers if answer is not None and not isinstance(answer, pb.Absence)]
        if len(found) < len(sequences):
            raise ItemsLostError(answers)
        return found

    def close(self) -> None:
        """Close the connection; safe to call twice."""
        self._pool.shutdown(cancel_futures=True)
        self._client.close()

    def _ask(self, rows: Sequence[TokenIds]) -> list[Answer]:
        """One request; one that fails on account of its items is asked again in halves, down to the item that is to blame."""
        try:
            if not self._options.text:
                return self._infer(self._mapping.inputs(rows, self._pad_id), rows)
            texts = [self._text(row) for row in rows]
            known = [(text, row) for text, row in zip(texts, rows, strict=True) if isinstance(text, str)]
            answers = iter(self._infer(self._mapping.texts([text for text, _ in known]), [row for _, row in known]) if known else [])
            return [next(answers) if isinstance(text, str) else text for text in texts]
        except InferenceServerException as error:
            status = str(error.status() or "").removeprefix("StatusCode.")
            if status not in _PASSING and len(rows) > 1:
                middle = len(rows) // 2
                return self._ask(rows[:middle]) + self._ask(rows[middle:])
            return [self._lost(status, str(error.message()))] * len(rows)
        except ValueError as error:
            return [self._lost("", str(error))] * len(rows)

    def _infer(self, tensors: dict[str, Any], rows: Sequence[TokenIds]) -> list[Answer]:
        inputs = []
        for name, values in tensors.items():
            tensor = InferInput(name, list(values.shape), self._mapping.datatypes[name])
            tensor.set_data_from_numpy(values)
            inputs.append(tensor)
        options = self._options
        result = self._client.infer(
            options.model_name,
            inputs,
            model_version=self._server_version,
            outputs=[InferRequestedOutput(name) for name in self._mapping.outputs],
            client_timeout=options.timeout_s,
        )
        scores = self._mapping.scores(result.as_numpy(options.output), len(rows))
        lost = self._mapping.absences(result.as_numpy(options.absence) if options.absence else None, len(rows))
        return [why or (score, len(row)) for score, why, row in zip(scores, lost, rows, strict=True)]

    def _text(self, row: TokenIds) -> str | pb.Absence:
        """The text of token ids; an absence when the server would not read the same tokens from it."""
        ids = [int(token) for token in row]
        text: str = self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        if self.tokenizer(text, add_special_tokens=False)["input_ids"] != ids:
            return absence(
                pb.ABSENCE_REASON_INVALID_INPUT, "its tokens are others when they are sent as text; use an engine that takes ids"
            )
        return text

    def _lost(self, status: str, message: str) -> pb.Absence:
        detail = f"model {self._options.model_name!r} of the KServe server failed: {status} {message}".replace("  ", " ")[:500]
        if status == "RESOURCE_EXHAUSTED":
            return absence(pb.ABSENCE_REASON_OVERLOADED, detail, retryable=True)
        return absence(pb.ABSENCE_REASON_INFRASTRUCTURE, detail, retryable=status in _PASSING)

    def _check(self, outputs: int) -> Mapping:
        """Ask the server what it has."""
        options, timeout = self._options, self._options.timeout_s
        named = f"model {options.model_name!r}" + (f" version {self._server_version}" if self._server_version else "")
        try:
            if not self._client.is_server_ready(client_timeout=timeout):
                raise LoadError("engine_address: the server says that it is not ready")
            if not self._client.is_model_ready(options.model_name, self._server_version, client_timeout=timeout):
                raise LoadError(f"engine_options.model_name: {named} is not ready on the server")
            metadata = self._client.get_model_metadata(options.model_name, self._server_version, client_timeout=timeout)
        except InferenceServerException as error:
            raise LoadError(f"engine_address: the server does not answer about {named}: {error.status()} {error.message()}") from error
        return Mapping.of(options, metadata, self._config(timeout), outputs)

    def _config(self, timeout: float) -> Any | None:
        """Triton's extension of the protocol: batch size, and which inputs are optional."""
        try:
            return self._client.get_model_config(self._options.model_name, self._server_version, client_timeout=timeout).config
        except InferenceServerException as error:
            if "UNIMPLEMENTED" in str(error.status()):
                return None
            raise LoadError(f"engine_address: the server does not tell the model's configuration: {error.message()}") from error


def open_triton(config: ModelServerConfig, kind: Kind, *, path: str, version: int, name: str, extras: Iterable[str]) -> ServedModel:
    """The model of `engine: triton`; see `open_model`."""
    if kind != "classification":
        raise LoadError(f"engine {ENGINE}: serves reward models (a classification head), this service needs a language model")
    options = read_options(TritonOptions, config.engine_options)
    client = InferenceServerClient(config.engine_address)
    try:
        return TritonModel(path, client, options, scale=str(getattr(config, "scale", "")), name=name, version=version, extras=tuple(extras))
    except LoadError:
        client.close()
        raise


def _server_version(options: TritonOptions, version: int) -> str:
    """Which version of the server's model is ours.

    Raises:
        LoadError: a later version of ours that would be the same one of the server's.
    """
    if options.model_version == "same":
        return str(version)
    if version > 1:
        raise LoadError('engine_options.model_version: set it to "same", so that another version of ours is another one of the server')
    return options.model_version
