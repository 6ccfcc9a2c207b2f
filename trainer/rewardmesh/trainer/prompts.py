"""Prompts from JSONL, in an order that is a function of seed and step alone: resuming needs no cursor."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rewardmesh.serving.config import ConfigError
from rewardmesh.trainer.examples import turns_of
from rewardmesh.trainer.recipe import PromptSource


@dataclass(frozen=True)
class Prompt:
    """One prompt with its gold answers.

    Attributes:
        id: stable within the file.
        messages: (role, content) pairs.
        references: gold answers, best first.
        tags: labels that programs route by.
    """

    id: str
    messages: tuple[tuple[str, str], ...]
    references: tuple[str, ...]
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The dialogue for people."""
        return "\n".join(content for _, content in self.messages)


class PromptSet:
    """All prompts of a source, shuffled anew in every epoch."""

    def __init__(self, source: PromptSource, seed: int) -> None:
        self.prompts = read_prompts(source)
        self._seed = seed

    def batch(self, step: int, size: int) -> list[Prompt]:
        """The prompts of a step (from 1): each prompt once an epoch; a prompt never twice in a step unless the file is smaller."""
        total = len(self.prompts)
        chosen = []
        for position in range((step - 1) * size, step * size):
            order = np.random.default_rng([self._seed, position // total]).permutation(total)
            chosen.append(self.prompts[order[position % total]])
        return chosen


def read_prompts(source: PromptSource) -> list[Prompt]:
    """Read every line.

    Raises:
        ConfigError: unreadable file, a line that is not JSON or lacks the fields, naming the line.
    """
    try:
        lines = source.path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"prompts.path: {source.path} cannot be read: {error}") from error
    prompts = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            prompts.append(_prompt(record, number, source))
        except (ValueError, TypeError, KeyError) as error:
            raise ConfigError(f"{source.path}:{number}: {error}") from error
    if not prompts:
        raise ConfigError(f"prompts.path: {source.path} holds no prompts")
    return prompts


def _prompt(record: Any, number: int, source: PromptSource) -> Prompt:
    if not isinstance(record, dict):
        raise TypeError("is not a JSON object")
    if source.prompt_field not in record:
        raise KeyError(f"has no field {source.prompt_field!r}; its fields are {', '.join(record)} (see prompt_field)")
    turns = turns_of(record[source.prompt_field])
    references = record.get(source.reference_field, [])
    references = [references] if isinstance(references, str) else references
    tags = record.get("tags", {})
    if not isinstance(tags, dict):
        raise TypeError("tags: must be a mapping of strings")
    tags = {str(key): str(value) for key, value in tags.items()}
    return Prompt(str(record.get("id", f"line{number}")), tuple(turns), tuple(str(reference) for reference in references), tags)
