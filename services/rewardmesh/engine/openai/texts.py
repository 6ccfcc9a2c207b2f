"""Texts that an OpenAI-compatible endpoint writes, by messages or by token ids: what is asked, and what its choices say.

An endpoint may write fewer texts than were asked for in one request; it is then asked for the rest. What it counts as written it counts
for all texts of a request together.
"""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from rewardmesh.engine.constrained import check_grammar
from rewardmesh.engine.foreign import RefusedError
from rewardmesh.engine.http import HttpClient, gather
from rewardmesh.engine.openai.endpoint import OpenAIOptions, completion_tokens, prompt_tokens
from rewardmesh.engine.vllm.rows import row_seed, structured_fields
from rewardmesh.engine.writing import Finish, Grammar, JsonGrammar, WritingOptions, Written
from rewardmesh.engine.written import cut

SEEDS = 2**31
"""Seeds are smaller: not every endpoint takes larger ones."""

Post = Callable[[int, int], Awaitable[Any]]
"""(n, seed) -> the endpoint's answer."""
Read = Callable[[Mapping[str, Any]], str]


def writing_fields(options: WritingOptions, settings: OpenAIOptions, prompts: int) -> dict[str, Any]:
    """Fields of a request but for prompt, n and seed.

    Raises:
        RefusedError: the endpoint, as configured, does not follow such a grammar.
    """
    fields: dict[str, Any] = {"temperature": options.temperature, "top_p": options.top_p}
    fields[settings.max_tokens_field if settings.api == "chat" else "max_tokens"] = options.max_tokens
    if not all(options.stop):
        raise ValueError("stop: a text that ends another must not be empty")
    if options.stop:
        fields["stop"] = list(options.stop)
    if options.grammar is not None:
        fields |= _structured(options.grammar, settings, prompts)
    return fields


def write_all(
    client: HttpClient,
    posts: Sequence[Post],
    read: Read,
    options: WritingOptions,
    row_keys: Sequence[str],
    cancelled: threading.Event | None,
) -> list[list[Written]]:
    """The texts of all prompts.

    Args:
        posts: asks for texts of each prompt.
        read: the text of a choice.

    Raises:
        ItemsLostError: prompts whose requests failed; the others' texts are in it.
    """
    jobs = [functools.partial(_texts, client, post, read, options, key) for post, key in zip(posts, row_keys, strict=True)]
    results = client.run(jobs, cancelled)
    if cancelled is not None and cancelled.is_set():
        return [[Written("", "aborted", 0, 0)] * options.n for _ in posts]
    return gather(results)


async def _texts(client: HttpClient, post: Post, read: Read, options: WritingOptions, key: str) -> list[Written]:
    texts: list[Written] = []
    while len(texts) < options.n:
        wanted = options.n - len(texts)
        answer = await post(wanted, row_seed(options.seed, key, len(texts)) % SEEDS)
        with client.reading("choices"):
            choices = sorted(answer["choices"], key=lambda choice: int(choice.get("index", 0)))[:wanted]
            counts = _parts(completion_tokens(answer), len(choices))
            read_tokens = prompt_tokens(answer)
            for number, (choice, count) in enumerate(zip(choices, counts, strict=True)):
                text = cut(read(choice), options.stop)
                texts.append(Written(text, _finish(choice.get("finish_reason")), 0 if number else read_tokens, count))
        if not choices:
            raise client.lost("it wrote no text")
    return texts


def _finish(reason: str | None) -> Finish:
    """A text that a filter or a tool call ended is not whole either."""
    return "stop" if reason == "stop" else "length"


def _parts(total: int, parts: int) -> list[int]:
    """Equal parts that add up to the total."""
    return [total // parts + (number < total % parts) for number in range(parts)]


def _structured(grammar: Grammar, settings: OpenAIOptions, prompts: int) -> dict[str, Any]:
    check_grammar(grammar)
    if settings.structured == "vllm":
        return {"structured_outputs": structured_fields(grammar)}
    if settings.structured == "response_format" and isinstance(grammar, JsonGrammar):
        schema = {"name": "answer", "strict": True, "schema": json.loads(grammar.schema)}
        return {"response_format": {"type": "json_schema", "json_schema": schema}}
    what = "documents of a JSON schema" if isinstance(grammar, JsonGrammar) else "a choice among words"
    remedy = "vllm or response_format" if isinstance(grammar, JsonGrammar) else "vllm"
    message = f"engine_options.structured: is {settings.structured}, which does not constrain texts to {what}; set {remedy} where it can"
    raise RefusedError(message, prompts)
