"""Judges by chat: the label probabilities are read from the likeliest first tokens of the answer."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from rewardmesh.engine.http import HttpClient, RequestError, gather
from rewardmesh.engine.interface import Ability, ServedModel
from rewardmesh.engine.loading import LoadError
from rewardmesh.engine.openai.endpoint import ENGINE, OpenAIOptions, check_listed, identity, prompt_tokens
from rewardmesh.engine.openai.labels import listed_labels
from rewardmesh.engine.openai.text_tokens import TextTokenizer
from rewardmesh.engine.packing import TokenIds
from rewardmesh.v1 import common_pb2 as pb

Question = tuple[TokenIds, Sequence[int]]


class ChatEndpoint(ServedModel):
    """A model behind /chat/completions.

    Raises:
        LoadError: the endpoint does not list the model, or gives no log-probabilities.
        RequestError: it cannot be reached.
    """

    engine = ENGINE
    packed = False

    def __init__(
        self, source: str, model_id: str, client: HttpClient, options: OpenAIOptions, *, name: str, version: int, extras: Sequence[str]
    ) -> None:
        self.name = name
        self.version = version
        self.abilities: frozenset[Ability] = frozenset(("label_log_probs",))
        self._text = TextTokenizer()
        self.tokenizer = self._text
        self._client = client
        self._options = options
        self._model_id = model_id
        check_listed(client, model_id)
        self.fingerprint = identity(client, model_id, ("chat", *extras))
        self.reason = f"computed by {model_id} at {client.address}"
        [read] = client.run([functools.partial(self._ask, (self._question("Say A or B."), self._text("A")["input_ids"]))])
        if isinstance(read, RequestError) and read.absence.reason != pb.ABSENCE_REASON_UNPARSABLE:
            raise LoadError(f"engine_address: {model_id} gives no label probabilities: {read}") from read

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

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    async def _ask(self, question: Question) -> tuple[list[float], int]:
        ids, labels = question
        body = {
            "model": self._model_id,
            "messages": self._text.messages(ids),
            "temperature": 1.0,
            "logprobs": True,
            "top_logprobs": self._options.top_logprobs,
            self._options.max_tokens_field: 1,
        }
        answer = await self._client.post("/chat/completions", body | self._options.extra_body)
        with self._client.reading("/chat/completions"):
            likeliest = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
            listed = [(str(entry["token"]), float(entry["logprob"])) for entry in likeliest]
            words = [self._text.decode([label]).strip() for label in labels]
            read = listed_labels(listed, words, exact=False, tolerance=self._options.max_label_error)
            tokens = prompt_tokens(answer)
        if isinstance(read, pb.Absence):
            raise RequestError(read)
        return read, tokens

    def _question(self, text: str) -> list[int]:
        ids: list[int] = self._text.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True, tokenize=True)
        return ids
