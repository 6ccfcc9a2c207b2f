"""`engine: vllm-server`: a vLLM OpenAI server elsewhere, asked with token ids and read without its activation.

The directory in `model` gives tokenizer, context and head; the server must list the same model. What depends on how the server was
started is found out when it is opened: the number of the head's outputs, and whether sampled log-probabilities are those of the
distribution that was drawn from (`--logprobs-mode processed_logprobs`) or of the raw one.
"""

from __future__ import annotations

import base64
import functools
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import Field

from rewardmesh.engine.config import ModelServerConfig
from rewardmesh.engine.constrained import check_grammar
from rewardmesh.engine.foreign import ForeignModel, RefusedError, read_options
from rewardmesh.engine.http import HttpClient, HttpOptions, RequestError, gather
from rewardmesh.engine.interface import Pair
from rewardmesh.engine.loading import Kind, LoadError, fingerprint
from rewardmesh.engine.log_probs import Extra, TokenStatistics
from rewardmesh.engine.packing import TokenIds
from rewardmesh.engine.sampling import Sampled, SamplingOptions
from rewardmesh.engine.vllm.rows import Ends, Row, rows_of, sampling_fields, structured_fields
from rewardmesh.engine.vllm.statistics import listed, statistics_from
from rewardmesh.engine.writing import WritingOptions, Written
from rewardmesh.engine.written import Texts, sampling_options, stop_rule, with_room
from rewardmesh.serving.errors import ItemsLostError
from rewardmesh.v1 import common_pb2 as pb

T = TypeVar("T")
R = TypeVar("R")

ENGINE = "vllm-server"
STREAM_INTERVAL = 16
"""Tokens in one event when nobody looks at each of them."""
PLAIN = {
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "repetition_penalty": 1.0,
}
"""The model's own distribution, whatever defaults the server has."""


class VllmServerOptions(HttpOptions):
    """Settings of `engine: vllm-server`."""

    served_model_name: str = Field("", description="the server's name for the configured model; empty: found by its path, or the only one")
    items_per_request: int = Field(16, ge=1, description="most items in one request; a batch is cut into as many requests as are needed")


class VllmServer(ForeignModel):
    """One model of a vLLM server.

    Args:
        address: http://host:port of the server.
        first: whether this is the configured model, which `served_model_name` names; a later version is found by its path.

    Raises:
        LoadError: the directory cannot be read, the server is not reached or serves something else.
    """

    engine = ENGINE

    def __init__(
        self,
        source: str,
        kind: Kind,
        *,
        address: str,
        options: VllmServerOptions,
        name: str,
        version: int,
        first: bool = True,
        extras: Iterable[str] = (),
    ) -> None:
        super().__init__(source, kind, name=name, version=version, extras=extras)
        self._options = options
        self._http = HttpClient(address, options, engine=ENGINE)
        self._raw_log_probs = True
        try:
            with self._http.reading("/v1/models"):
                served = self._http.one(lambda: self._http.get("/v1/models"))["data"]
                found = served_model(served, source, options.served_model_name if first else "", first)
                self._model_id, self._context = str(found["id"]), int(found.get("max_model_len") or super().max_tokens)
            self._probe()
        except RequestError as error:
            self._http.close()
            raise LoadError(f"engine_address: {error}") from error
        except LoadError:
            self._http.close()
            raise
        # The server may hold other weights than the directory: its name for them is part of the identity.
        self.fingerprint = fingerprint(source, [*extras, self._model_id])
        self.reason = f"computed by {ENGINE} at {self._http.address} ({self._model_id})"

    @property
    def max_tokens(self) -> int:
        """Longest input; a causal model's leaves room for the one token that the server always writes."""
        return self._context - (self.kind == "causal")

    @property
    def device_name(self) -> str:
        """Where the weights are."""
        return f"{ENGINE} {self._http.address}"

    def scores(self, sequences: Sequence[TokenIds]) -> list[tuple[list[float], int]]:
        """See `ServedModel`. Raises ItemsLostError."""
        outputs = self.config.num_labels

        async def ask(chunk: Sequence[TokenIds]) -> list[tuple[list[float], int]]:
            # base64 keeps NaN, which JSON cannot hold.
            body = {"model": self._model_id, "input": [_ids(s) for s in chunk], "task": "classify", "use_activation": False}
            answer = await self._http.post(
                "/pooling",
                body | {"encoding_format": "base64", "embed_dtype": "float32", "endianness": "little"},
                tokens=sum(map(len, chunk)),
            )
            with self._http.reading("/pooling"):
                values = [np.frombuffer(base64.b64decode(item["data"]), "<f4") for item in _in_order(answer["data"], len(chunk))]
                if any(len(row) != outputs for row in values):
                    raise ValueError(f"{len(values[0])} outputs, the model's config names {outputs}")
            return [(row.astype(float).tolist(), len(ids)) for row, ids in zip(values, chunk, strict=True)]

        return self._ask(sequences, ask)

    def token_statistics(
        self, pairs: Sequence[Pair], *, temperature: float, extras: Collection[Extra], top_k: int
    ) -> list[tuple[TokenStatistics, int]]:
        """See `ServedModel`. Raises ItemsLostError, RefusedError."""
        self.check_statistics(len(pairs), temperature=temperature, extras=extras)

        async def ask(chunk: Sequence[Pair]) -> list[tuple[TokenStatistics, int]]:
            inputs = [_ids(prompt) + _ids(completion) for prompt, completion in chunk]
            choices = await self._complete(inputs, prompt_logprobs=listed(top_k, extras))
            results = []
            with self._http.reading("prompt_logprobs"):
                for choice, ids, (_, completion) in zip(choices, inputs, chunk, strict=True):
                    positions = choice["prompt_logprobs"][-len(completion) :]
                    if len(positions) != len(completion):
                        raise ValueError(f"{len(positions)} positions for {len(completion)} tokens")
                    read = [_position(found, token) for found, token in zip(positions, ids[-len(completion) :], strict=True)]
                    results.append((statistics_from(read, extras=extras, top_k=top_k), len(ids)))
            return results

        return self._ask(pairs, ask)

    def label_log_probs(self, questions: Sequence[tuple[TokenIds, Sequence[int]]]) -> list[tuple[list[float], int]]:
        """See `ServedModel`. Raises ItemsLostError."""

        async def ask(chunk: Sequence[tuple[TokenIds, Sequence[int]]]) -> list[tuple[list[float], int]]:
            wanted = sorted({token for _, labels in chunk for token in labels})
            choices = await self._complete(
                [_ids(ids) for ids, _ in chunk], logprobs=len(wanted), logprob_token_ids=wanted, return_tokens_as_token_ids=True
            )
            results = []
            with self._http.reading("logprobs"):
                for choice, (ids, labels) in zip(choices, chunk, strict=True):
                    found = choice["logprobs"]["top_logprobs"][0]
                    results.append(([float(found[f"token_id:{token}"]) for token in labels], len(ids)))
            return results

        return self._ask(questions, ask)

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        options: SamplingOptions,
        emit: Callable[[Sampled], None],
        *,
        row_keys: Sequence[str],
        ends: Ends | None = None,
        cancelled: threading.Event | None = None,
    ) -> None:
        """See `sampling.sample`; rows whose request failed are in the ItemsLostError at the end.

        Raises:
            RefusedError: the server reports raw log-probabilities, and the call draws from another distribution.
        """
        truncated = options.temperature > 0 and (options.top_p < 1 or options.top_k > 0)
        if self._raw_log_probs and (options.temperature not in (0, 1) or truncated):
            message = f"{self.reason} gives log-probabilities at temperature 1 over the whole vocabulary only"
            raise RefusedError(f"{message}; start it with --logprobs-mode processed_logprobs", len(prompts) * options.n)
        rows = rows_of(prompts, options, row_keys, self._context)

        async def write(row: Row) -> None:
            emit(await self._http.retrying(lambda: self._stream(row, options, ends)))

        results = self._http.run([functools.partial(write, row) for row in rows], cancelled)
        if cancelled is not None and cancelled.is_set():
            return
        failed = [result for result in results if isinstance(result, RequestError)]
        if failed:
            raise ItemsLostError([error.absence for error in failed])

    def write(
        self, prompts: Sequence[TokenIds], options: WritingOptions, *, row_keys: Sequence[str], cancelled: threading.Event | None = None
    ) -> list[list[Written]]:
        """See `ServedModel`; the server follows the grammar, by whatever it was started with."""
        if not prompts:
            return []
        ids = with_room(prompts, self._context)
        stop_rule(self.tokenizer, options.stop)  # refuses an empty text
        fields: dict[str, Any] = {"stop": list(options.stop)}
        if options.grammar is not None:
            check_grammar(options.grammar)
            fields["structured_outputs"] = structured_fields(options.grammar)
        drawn = sampling_options(options, self.eos_ids)
        rows = rows_of(ids, drawn, row_keys, self._context)
        sampled = self._http.run([functools.partial(self._written, row, drawn, fields) for row in rows], cancelled)
        if cancelled is not None and cancelled.is_set():
            sampled = [Sampled(row.prompt, row.index, [], [], "aborted") for row in rows]
        texts = Texts(self.tokenizer, list(map(len, ids)), options.n, options.stop)
        lost: dict[int, pb.Absence] = {}
        for row, result in zip(rows, sampled, strict=True):
            if isinstance(result, RequestError):
                lost[row.prompt] = result.absence
            else:
                texts.add(result)
        if lost:
            raise ItemsLostError([lost.get(prompt) or texts.of(prompt) for prompt in range(len(prompts))])
        return texts.all()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    async def _written(self, row: Row, options: SamplingOptions, fields: dict[str, Any]) -> Sampled:
        asked = {"model": self._model_id, "prompt": row.prompt_ids, "return_token_ids": True} | sampling_fields(row, options)
        answer = await self._http.post("/v1/completions", asked | fields, tokens=len(row.prompt_ids) + row.max_tokens)
        with self._http.reading("/v1/completions"):
            [choice] = answer["choices"]
            ids = [int(token) for token in choice["token_ids"]]
            return row.sampled(ids, [0.0] * len(ids), choice["finish_reason"])

    async def _stream(self, row: Row, options: SamplingOptions, ends: Ends | None) -> Sampled:
        """As it is written, so that the stop rule is asked after each token; the server stops when the connection is closed."""
        ids: list[int] = []
        log_probs: list[float] = []
        finish = None
        asked = self._sampling_body(row, options, 1 if ends else STREAM_INTERVAL)
        events = self._http.events("/v1/completions", asked, tokens=len(row.prompt_ids) + row.max_tokens)
        try:
            async for event in events:
                with self._http.reading("/v1/completions"):
                    for choice in event["choices"]:
                        if choice.get("token_ids"):
                            before = len(ids)
                            ids += choice["token_ids"]
                            log_probs += choice["logprobs"]["token_logprobs"]
                            if ends and any(ends(ids[:count]) for count in range(before + 1, len(ids) + 1)):
                                return row.sampled(ids, log_probs, "stop", ends)
                        finish = choice.get("finish_reason") or finish
        finally:
            await events.aclose()
        if finish is None:
            raise self._http.lost("the stream ended before the completion did")
        return row.sampled(ids, log_probs, finish, ends)

    def _sampling_body(self, row: Row, options: SamplingOptions, interval: int) -> dict[str, Any]:
        asked = {"model": self._model_id, "prompt": row.prompt_ids, "logprobs": 0, "return_token_ids": True}
        return asked | sampling_fields(row, options) | {"stream": True, "stream_interval": interval}

    async def _complete(self, inputs: Sequence[list[int]], **fields: Any) -> list[Any]:
        """One token after each input; the choices in order."""
        body = {"model": self._model_id, "prompt": list(inputs), "max_tokens": 1, "stop": [], "ignore_eos": True} | PLAIN | fields
        answer = await self._http.post("/v1/completions", body, tokens=sum(map(len, inputs)) + len(inputs))
        with self._http.reading("/v1/completions"):
            return _in_order(answer["choices"], len(inputs))

    def _ask(self, items: Sequence[T], ask: Callable[[Sequence[T]], Any]) -> list[R]:
        """Put items in requests and gather what comes; a request refused because of one item is put again item by item."""
        size = max(1, min(self._options.items_per_request, -(-len(items) // self._options.max_concurrency)))
        chunks = [items[i : i + size] for i in range(0, len(items), size)]

        async def careful(chunk: Sequence[T]) -> list[R | RequestError]:
            try:
                return list(await ask(chunk))
            except RequestError as error:
                if len(chunk) == 1 or error.status not in (400, 413, 422):
                    return [error] * len(chunk)
                return [result for item in chunk for result in await careful([item])]

        results: list[R | RequestError] = []
        for part, chunk in zip(self._http.run([functools.partial(careful, c) for c in chunks]), chunks, strict=True):
            results += [part] * len(chunk) if isinstance(part, RequestError) else part
        return gather(results)

    def _probe(self) -> None:
        """Ask the smallest question, so that a wrong server is refused when it is opened and not at the first call."""
        question = np.array([self.eos_ids[0] if self.eos_ids else 0])
        try:
            if self.kind == "classification":
                self.scores([question])
                return
            self._raw_log_probs = self._reports_raw(_ids(question))
        except ItemsLostError as error:
            raise LoadError(f"engine_address: {self._not_served(error.absences[0].detail)}") from error
        except RequestError as error:
            if error.status not in (400, 404):
                raise
            raise LoadError(f"engine_address: {self._not_served(str(error))}") from error

    def _not_served(self, detail: str) -> str:
        return f"{self._model_id} is not served as a {self.kind} model: {detail}"

    def _reports_raw(self, question: list[int]) -> bool:
        """Whether log-probabilities stay the same when the temperature halves."""

        async def likeliest(temperature: float) -> dict[str, float]:
            [choice] = await self._complete([question], logprobs=5, temperature=temperature, return_tokens_as_token_ids=True)
            with self._http.reading("logprobs"):
                found = choice["logprobs"]["top_logprobs"][0]
                return {token: float(value) for token, value in found.items()}

        at_one = self._http.one(lambda: likeliest(1.0))
        at_half = self._http.one(lambda: likeliest(0.5))
        return all(abs(at_one[token] - at_half[token]) < 1e-4 for token in at_one.keys() & at_half.keys())


def served_model(served: Sequence[Mapping[str, Any]], source: str, wanted: str, first: bool) -> Mapping[str, Any]:
    """The entry of /v1/models that stands for a model directory.

    Args:
        wanted: the server's name for it; empty to find it by its path.
        first: whether a server with one model may be taken at its word.

    Raises:
        LoadError: no entry fits; lists them.
    """
    names = ", ".join(str(entry["id"]) for entry in served) or "nothing"
    if wanted:
        matching = [entry for entry in served if entry["id"] == wanted]
    else:
        matching = [entry for entry in served if {str(entry["id"]), str(entry.get("root"))} & _spellings(source)]
        if not matching and first and len(served) == 1:
            matching = list(served)
    if not matching:
        raise LoadError(
            f"engine_address: the server serves {names}, not {wanted or source}; engine_options.served_model_name names it there"
        )
    return matching[0]


def _spellings(source: str) -> set[str]:
    return {source, source.rstrip("/"), str(Path(source).resolve())}


def _ids(tokens: TokenIds) -> list[int]:
    return [int(token) for token in tokens]


def _in_order(entries: Sequence[Any], count: int) -> list[Any]:
    """Entries by their index; one for each of `count` items."""
    ordered = sorted(entries, key=lambda entry: entry["index"])
    if [entry["index"] for entry in ordered] != list(range(count)):
        raise ValueError(f"{len(entries)} entries for {count} items")
    return ordered


def _position(found: Mapping[str, Mapping[str, float]], token: int) -> tuple[float, dict[int, float]]:
    """The log-probability of a prompt token, and of those listed at its position."""
    values = {int(key): float(entry["logprob"]) for key, entry in found.items()}
    return values[token], values


def open_server(config: ModelServerConfig, kind: Kind, *, path: str, version: int, name: str, extras: Iterable[str]) -> VllmServer:
    """The model of `engine: vllm-server`; see `open_model`."""
    return VllmServer(
        path,
        kind,
        address=config.engine_address,
        options=read_options(VllmServerOptions, config.engine_options),
        name=name,
        version=version,
        first=path == config.model,
        extras=extras,
    )
