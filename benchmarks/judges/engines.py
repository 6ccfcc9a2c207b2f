"""The same questions about the same weights to every engine that reads a judge's labels, and how far their probabilities are apart.

In process, a vLLM server by token ids, the same server by /v1/completions and by /v1/chat/completions as an OpenAI-compatible endpoint. By
chat the server renders the prompt itself: it must have the chat template of the model's directory.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rewardmesh.engine.config import ModelServerConfig
from rewardmesh.engine.interface import ServedModel
from rewardmesh.engine.opening import open_model
from rewardmesh.engine.text import prompt_ids
from rewardmesh.v1 import common_pb2 as pb

Floats = npt.NDArray[np.float64]

IN_PROCESS = "transformers"
CHAT = "openai chat"


def label_probabilities(model: Path, address: str, questions: Sequence[str], labels: Sequence[str]) -> dict[str, Floats]:
    """[questions, labels] by engine; probabilities of the labels over the whole vocabulary.

    Args:
        address: of a vLLM server of the model, http://host:port.
        questions: what a user says to the judge.
        labels: of one token each.
    """
    found = {}
    for name, settings in _engines(model, address).items():
        path = str(model)
        opened = open_model(ModelServerConfig(model=path, **settings), "causal", "label_log_probs", path=path, version=1)
        try:
            found[name] = _ask(opened, questions, labels)
        finally:
            opened.close()
    return found


def verdict_differences(probabilities: Mapping[str, Floats]) -> dict[str, float]:
    """For each engine the largest distance of a verdict, the first label's share of all labels, from that of the engine in process."""
    verdicts = {name: found[:, 0] / found.sum(axis=1) for name, found in probabilities.items()}
    expected = verdicts.pop(IN_PROCESS)
    return {name: float(np.abs(found - expected).max()) for name, found in verdicts.items()}


def _engines(model: Path, address: str) -> dict[str, dict[str, Any]]:
    endpoint = {"engine": "openai", "engine_address": address}
    options = {"served_model_name": str(model), "max_label_error": 1e-3}
    return {
        IN_PROCESS: {},
        "vllm-server": {"engine": "vllm-server", "engine_address": address},
        "openai completions": endpoint | {"engine_options": options | {"api": "completions"}},
        CHAT: endpoint | {"engine_options": options | {"api": "chat", "exact_labels": True}},
    }


def _ask(model: ServedModel, questions: Iterable[str], labels: Sequence[str]) -> Floats:
    tokens = [_token(model.tokenizer, label) for label in labels]
    ids = [prompt_ids(model.tokenizer, [pb.Message(role=pb.ROLE_USER, content=question)]) for question in questions]
    return np.exp([values for values, _ in model.label_log_probs([(asked, tokens) for asked in ids])])


def _token(tokenizer: Any, label: str) -> int:
    [token] = tokenizer(label, add_special_tokens=False)["input_ids"]
    return int(token)
