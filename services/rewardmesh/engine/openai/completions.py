"""Judges, texts and log-probabilities by completions: token ids in, so the model is the one whose directory we have."""

from __future__ import annotations

import functools
import threading
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from rewardmesh.engine.foreign import ForeignModel, RefusedError
from rewardmesh.engine.http import HttpClient, RequestError, gather
from rewardmesh.engine.interface import Pair
from rewardmesh.engine.loading import fingerprint
from rewardmesh.engine.log_probs import Extra, TokenStatistics
from rewardmesh.engine.openai.endpoint import ENGINE, OpenAIOptions, check_listed, probed, prompt_tokens
from rewardmesh.engine.openai.labels import listed_labels
from rewardmesh.engine.openai.texts import write_all, writing_fields
from rewardmesh.engine.packing import TokenIds
from rewardmesh.engine.vllm.statistics import statistics_from
from rewardmesh.engine.writing import WritingOptions, Written
from rewardmesh.engine.written import with_room
from rewardmesh.v1 import common_pb2 as pb

Question = tuple[TokenIds, Sequence[int]]


class CompletionsEndpoint(ForeignModel):
    """A model behind /completions whose tokenizer and config are in a directory here.

    Log-probabilities of given tokens need an endpoint that echoes prompts with theirs (`echo`); whether it does is tried when it is opened.

    Raises:
        LoadError: no such directory, the endpoint does not list the model or takes no token ids.
        RequestError: it cannot be reached.
    """

    engine = ENGINE
    bills = True

    def __init__(
        self, source: str, model_id: str, client: HttpClient, options: OpenAIOptions, *, name: str, version: int, extras: Sequence[str]
    ) -> None:
        super().__init__(source, "causal", name=name, version=version, extras=extras)
        self._client = client
        self._options = options
        self._model_id = model_id
        check_listed(client, model_id)
        self.fingerprint = fingerprint(source, [*extras, client.address, model_id])
        self.reason = f"computed by {model_id} at {client.address}"
        start = self.eos_ids[0] if self.eos_ids else 0
        labels = functools.partial(self._labels, ([start], [start]))
        lacks = probed(client, model_id, labels, functools.partial(self._probe_text, [start]))
        [echo] = client.run([functools.partial(self._echo, ([start], [start]))])
        self.abilities = frozenset(("write",) if lacks else ("label_log_probs", "write"))
        if not isinstance(echo, RequestError):
            self.abilities |= {"token_statistics"}
        self.reason += f"; {lacks}" if lacks else ""

    @property
    def max_tokens(self) -> int:
        """Longest input in tokens; room is left for the token that the endpoint writes."""
        return min(super().max_tokens - 1, self._options.max_input_tokens)

    @property
    def device_name(self) -> str:
        """Where the weights are."""
        return self._client.address

    def label_log_probs(self, questions: Sequence[Question]) -> list[tuple[list[float], int]]:
        """See `ServedModel`. Raises ItemsLostError."""
        return gather(self._client.run([functools.partial(self._labels, question) for question in questions]))

    def token_statistics(
        self, pairs: Sequence[Pair], *, temperature: float, extras: Collection[Extra], top_k: int
    ) -> list[tuple[TokenStatistics, int]]:
        """See `ServedModel`. Raises ItemsLostError, RefusedError."""
        self.check_statistics(len(pairs), temperature=temperature, extras=extras)
        if top_k or extras:
            raise RefusedError(f"{self.reason} lists likely tokens by their text, not by id; engine vllm-server lists ids", len(pairs))
        return gather(self._client.run([functools.partial(self._echo, pair) for pair in pairs]))

    def write(
        self, prompts: Sequence[TokenIds], options: WritingOptions, *, row_keys: Sequence[str], cancelled: threading.Event | None = None
    ) -> list[list[Written]]:
        """See `ServedModel`. Raises ItemsLostError, RefusedError."""
        fields = writing_fields(options, self._options, len(prompts))
        posts = [functools.partial(self._write, ids, fields) for ids in with_room(prompts, super().max_tokens)] if prompts else []
        return write_all(self._client, posts, _text, options, row_keys, cancelled)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    async def _labels(self, question: Question) -> tuple[list[float], int]:
        ids, labels = question
        answer = await self._complete(ids, max_tokens=1, logprobs=self._options.top_logprobs)
        with self._client.reading("/completions"):
            listed = [(text, float(value)) for text, value in answer["choices"][0]["logprobs"]["top_logprobs"][0].items()]
            words = [self.tokenizer.decode([label]) for label in labels]
            read = listed_labels(listed, words, exact=True, tolerance=self._options.max_label_error)
            tokens = prompt_tokens(answer) or len(ids)
        if isinstance(read, pb.Absence):
            raise RequestError(read)
        return read, tokens

    async def _echo(self, pair: Pair) -> tuple[TokenStatistics, int]:
        prompt, completion = pair
        ids = [*prompt, *completion]
        # One token is written besides, as not every endpoint writes none.
        answer = await self._complete(ids, max_tokens=1, logprobs=1, echo=True)
        with self._client.reading("/completions"):
            values = answer["choices"][0]["logprobs"]["token_logprobs"]
            if len(values) != len(ids) + 1:
                raise ValueError(f"{len(values)} log-probabilities for {len(ids)} tokens and one more")
            nothing: dict[int, float] = {}
            wanted = [(float(value), nothing) for value in values[len(prompt) : len(ids)]]
            return statistics_from(wanted, extras=(), top_k=0), prompt_tokens(answer) or len(ids)

    async def _write(self, ids: TokenIds, fields: Mapping[str, Any], n: int, seed: int) -> Any:
        room = super().max_tokens - len(ids)
        return await self._complete(ids, **{**fields, "n": n, "seed": seed, "max_tokens": min(int(fields["max_tokens"]), room)})

    async def _probe_text(self, ids: TokenIds) -> str:
        answer = await self._complete(ids, max_tokens=1)
        with self._client.reading("/completions"):
            return _text(answer["choices"][0])

    async def _complete(self, ids: TokenIds, **fields: Any) -> Any:
        body = {"model": self._model_id, "prompt": [int(token) for token in ids], "temperature": 1.0, "top_p": 1.0}
        tokens = len(ids) + int(fields["max_tokens"]) * int(fields.get("n", 1))
        return await self._client.post("/completions", body | fields | self._options.extra_body, tokens=tokens)


def _text(choice: Mapping[str, Any]) -> str:
    """The text of a choice."""
    return str(choice["text"])
