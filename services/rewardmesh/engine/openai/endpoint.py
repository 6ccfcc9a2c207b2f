"""`engine: openai`: any OpenAI-compatible endpoint, for judges, and where it echoes prompts for log-probabilities.

`api: chat` sends messages; `model` is the endpoint's name for the model and no tokenizer is needed. `api: completions` sends token ids
of the directory that `model` names. Sampling for training is not offered: an endpoint gives text, and text tokenised again is not what
was drawn. One that lists no log-probabilities can still write.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field

from rewardmesh.engine.config import ModelServerConfig
from rewardmesh.engine.foreign import read_options
from rewardmesh.engine.http import HttpClient, HttpOptions, Job, RequestError
from rewardmesh.engine.interface import ServedModel
from rewardmesh.engine.loading import Kind, LoadError
from rewardmesh.v1 import common_pb2 as pb

ENGINE = "openai"
NAMED = 20
MOST_TOKENS = 2**31 - 1


class OpenAIOptions(HttpOptions):
    """Settings of `engine: openai`."""

    api: Literal["chat", "completions"] = Field(
        "chat", description="which interface is asked: messages, or token ids of the directory in `model`"
    )
    served_model_name: str = Field("", description="the endpoint's name for the model; empty: what `model` says")
    api_key_env: str = Field("", description="environment variable that holds the key; empty: none is sent")
    top_logprobs: int = Field(
        20, ge=1, description="likeliest tokens to ask for; endpoints have a limit, 20 for chat and often 5 for completions"
    )
    max_label_error: float = Field(
        0.01,
        ge=0,
        lt=1,
        description="largest unknown share of the labels' probability when one of them is not listed; beyond it: UNPARSABLE",
    )
    exact_labels: bool = Field(
        False, description="chat: count the tokens that are a label, as other engines do, and not those with white space around it as well"
    )
    max_input_tokens: int = Field(131072, ge=1, description="longest input (chat: in characters and short words); longer is TOO_LONG")
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = Field(
        "max_tokens", description="by which name a chat endpoint takes the length of an answer"
    )
    structured: Literal["none", "response_format", "vllm"] = Field(
        "response_format",
        description="how the endpoint is told what may be written: JSON schemas by response_format, these and choices by vLLM's"
        " structured_outputs, or not at all",
    )
    extra_body: dict[str, Any] = Field(default_factory=dict, description="further fields of every request")


def open_endpoint(config: ModelServerConfig, kind: Kind, *, path: str, version: int, name: str, extras: Iterable[str]) -> ServedModel:
    """The model of `engine: openai`; see `open_model`."""
    # They import this module.
    from rewardmesh.engine.openai.chat import ChatEndpoint
    from rewardmesh.engine.openai.completions import CompletionsEndpoint

    if kind != "causal":
        raise LoadError(f"engine {ENGINE}: an OpenAI-compatible endpoint has no {kind} head; engine vllm-server reads one")
    options = read_options(OpenAIOptions, config.engine_options)
    wanted = options.served_model_name if path == config.model else ""
    endpoint = ChatEndpoint if options.api == "chat" else CompletionsEndpoint
    client = connect(config.engine_address, options)
    try:
        return endpoint(path, wanted or path, client, options, name=name, version=version, extras=tuple(extras))
    except RequestError as error:
        client.close()
        raise LoadError(f"engine_address: {error}") from error
    except LoadError:
        client.close()
        raise


def connect(address: str, options: OpenAIOptions) -> HttpClient:
    """A client for the endpoint; an address without a path gets /v1.

    Raises:
        LoadError: no address with http:// or https://, or the variable with the key is not set.
    """
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise LoadError(f"engine_address: {address!r} must begin with http:// or https://")
    headers = {}
    if options.api_key_env:
        if not (key := os.environ.get(options.api_key_env)):
            raise LoadError(f"engine_options.api_key_env: the environment has no {options.api_key_env}")
        headers["Authorization"] = f"Bearer {key}"
    return HttpClient(
        address if parts.path.strip("/") else f"{address.rstrip('/')}/v1", options, engine=ENGINE, headers=headers, outside=True
    )


def check_listed(client: HttpClient, model_id: str) -> None:
    """Raise LoadError unless the endpoint lists a model; one that lists nothing is taken at its word."""
    try:
        answer = client.one(lambda: client.get("/models"))
    except RequestError as error:
        if error.status == 404:
            return
        raise
    with client.reading("/models"):
        names = [str(entry["id"]) for entry in answer["data"]]
    if model_id not in names:
        shown = ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
        raise LoadError(
            f"engine_address: the endpoint serves {shown or 'nothing'}, not {model_id}; engine_options.served_model_name names it there"
        )


def identity(client: HttpClient, model_id: str, extras: Iterable[str]) -> str:
    """Fingerprint (hex, 16 characters) of a model that only the endpoint has."""
    digest = hashlib.sha256(f"{client.address}\0{model_id}".encode())
    for extra in extras:
        digest.update(b"\0" + extra.encode())
    return digest.hexdigest()[:16]


def probed(client: HttpClient, model_id: str, labels: Job[object], text: Job[object]) -> str:
    """Empty when an endpoint gives label probabilities; else why not, if it writes texts all the same.

    Args:
        labels, text: the smallest question for each.

    Raises:
        LoadError: it does neither.
    """
    [read] = client.run([labels])
    if not isinstance(read, RequestError) or read.absence.reason == pb.ABSENCE_REASON_UNPARSABLE:
        return ""
    reason = f"{model_id} gives no label probabilities: {read}"
    refused = read.status in (400, 422) or (read.status == 0 and not read.absence.retryable)
    [written] = client.run([text]) if refused else [read]
    if isinstance(written, RequestError):
        raise LoadError(f"engine_address: {reason}") from read
    return reason


def prompt_tokens(answer: Mapping[str, Any]) -> int:
    """What the endpoint says it has read; 0 when it does not say."""
    return _counted(answer, "prompt_tokens")


def completion_tokens(answer: Mapping[str, Any]) -> int:
    """What it says it has written; 0 when it does not say."""
    return _counted(answer, "completion_tokens")


def _counted(answer: Mapping[str, Any], field: str) -> int:
    """A count that somebody is charged for; ValueError for one that nobody can have counted."""
    found = int((answer.get("usage") or {}).get(field) or 0)
    if not 0 <= found <= MOST_TOKENS:
        raise ValueError(f"usage.{field} is {found}")
    return found
