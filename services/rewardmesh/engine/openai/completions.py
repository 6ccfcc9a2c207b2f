"""Judges and log-probabilities by completions: token ids in, so the model is the one whose directory we have."""

from __future__ import annotations

import functools
from collections.abc import Collection, Sequence
from typing import Any

from rewardmesh.engine.foreign import ForeignModel, RefusedError
from rewardmesh.engine.http import HttpClient, RequestError, gather
from rewardmesh.engine.interface import Pair
from rewardmesh.engine.loading import LoadError, fingerprint
from rewardmesh.engine.log_probs import Extra, TokenStatistics
from rewardmesh.engine.openai.endpoint import ENGINE, OpenAIOptions, check_listed, prompt_tokens
from rewardmesh.engine.openai.labels import listed_labels
from rewardmesh.engine.packing import TokenIds
from rewardmesh.engine.vllm.statistics import statistics_from
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
        [labels] = client.run([functools.partial(self._labels, ([start], [start]))])
        if isinstance(labels, RequestError) and labels.absence.reason != pb.ABSENCE_REASON_UNPARSABLE:
            raise LoadError(f"engine_address: {model_id} gives no label probabilities: {labels}") from labels
        [echo] = client.run([functools.partial(self._echo, ([start], [start]))])
        echoes = not isinstance(echo, RequestError)
        self.abilities = frozenset(("label_log_probs", "token_statistics")) if echoes else frozenset(("label_log_probs",))

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

    async def _complete(self, ids: TokenIds, **fields: Any) -> Any:
        body = {"model": self._model_id, "prompt": [int(token) for token in ids], "temperature": 1.0, "top_p": 1.0}
        return await self._client.post("/completions", body | fields | self._options.extra_body)
