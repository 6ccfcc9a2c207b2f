"""Judges by chat: the label probabilities are read from the likeliest first tokens of the answer, or whole answers are written."""

from __future__ import annotations

import functools
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from rewardmesh.engine.http import HttpClient, RequestError, gather
from rewardmesh.engine.interface import Ability, ServedModel
from rewardmesh.engine.openai.endpoint import ENGINE, OpenAIOptions, check_listed, identity, probed, prompt_tokens
from rewardmesh.engine.openai.labels import listed_labels
from rewardmesh.engine.openai.text_tokens import TextTokenizer
from rewardmesh.engine.openai.texts import write_all, writing_fields
from rewardmesh.engine.packing import TokenIds
from rewardmesh.engine.writing import WritingOptions, Written
from rewardmesh.v1 import common_pb2 as pb

Question = tuple[TokenIds, Sequence[int]]


class ChatEndpoint(ServedModel):
    """A model behind /chat/completions.

    Raises:
        LoadError: the endpoint does not list the model, or gives neither log-probabilities nor texts.
        RequestError: it cannot be reached.
    """

    engine = ENGINE
    packed = False
    bills = True

    def __init__(
        self, source: str, model_id: str, client: HttpClient, options: OpenAIOptions, *, name: str, version: int, extras: Sequence[str]
    ) -> None:
        self.name = name
        self.version = version
        self._text = TextTokenizer()
        self.tokenizer = self._text
        self._client = client
        self._options = options
        self._model_id = model_id
        check_listed(client, model_id)
        self.fingerprint = identity(client, model_id, ("chat", *extras))
        self.reason = f"computed by {model_id} at {client.address}"
        question = self._question("Say A or B.")
        labels = functools.partial(self._ask, (question, self._text("A")["input_ids"]))
        lacks = probed(client, model_id, labels, functools.partial(self._probe_text, question))
        self.abilities: frozenset[Ability] = frozenset(("write",) if lacks else ("label_log_probs", "write"))
        self.reason += f"; {lacks}" if lacks else ""

    @property
    def max_tokens(self) -> int:
        """Longest input, in ids of `TextTokenizer`."""
        return self._options.max_input_tokens

    @property
    def device_name(self) -> str:
        """Where the weights are."""
        return self._client.address

    def label_log_probs(self, questions: Sequence[Question]) -> list[tuple[list[float], int]]:
        """See `ServedModel`; the tokens computed are those that the endpoint counts. Raises ItemsLostError."""
        return gather(self._client.run([functools.partial(self._ask, question) for question in questions]))

    def write(
        self, prompts: Sequence[TokenIds], options: WritingOptions, *, row_keys: Sequence[str], cancelled: threading.Event | None = None
    ) -> list[list[Written]]:
        """See `ServedModel`. Raises ItemsLostError, RefusedError."""
        fields = writing_fields(options, self._options, len(prompts))
        posts = [functools.partial(self._write, ids, fields) for ids in prompts]
        return write_all(self._client, posts, _content, options, row_keys, cancelled)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    async def _ask(self, question: Question) -> tuple[list[float], int]:
        ids, labels = question
        asked = {"temperature": 1.0, "logprobs": True, "top_logprobs": self._options.top_logprobs, self._options.max_tokens_field: 1}
        answer = await self._post(ids, asked, 1)
        with self._client.reading("/chat/completions"):
            likeliest = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
            listed = [(str(entry["token"]), float(entry["logprob"])) for entry in likeliest]
            words = [self._text.decode([label]).strip() for label in labels]
            read = listed_labels(listed, words, exact=self._options.exact_labels, tolerance=self._options.max_label_error)
            tokens = prompt_tokens(answer)
        if isinstance(read, pb.Absence):
            raise RequestError(read)
        return read, tokens

    async def _write(self, ids: TokenIds, fields: Mapping[str, Any], n: int, seed: int) -> Any:
        most = n * int(fields[self._options.max_tokens_field])
        return await self._post(ids, {**fields, "n": n, "seed": seed}, most)

    async def _probe_text(self, ids: TokenIds) -> str:
        answer = await self._post(ids, {self._options.max_tokens_field: 1}, 1)
        with self._client.reading("/chat/completions"):
            return _content(answer["choices"][0])

    async def _post(self, ids: TokenIds, fields: Mapping[str, Any], most_written: int) -> Any:
        body = {"model": self._model_id, "messages": self._text.messages(ids), **fields}
        tokens = len(ids) + most_written
        return await self._client.post("/chat/completions", body | self._options.extra_body, tokens=tokens)

    def _question(self, text: str) -> list[int]:
        ids: list[int] = self._text.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True, tokenize=True)
        return ids


def _content(choice: Mapping[str, Any]) -> str:
    """The text of a choice; a model that refuses to answer says null."""
    return str(choice["message"]["content"] or "")
