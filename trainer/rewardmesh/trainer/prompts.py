"""Prompts from JSONL: an endless sequence, shuffled anew in every epoch by the seed, which a run walks by its position."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from rewardmesh.serving.config import ConfigError
from rewardmesh.trainer.examples import turns_of


class PromptSource(BaseModel):
    """A JSONL file of prompts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: Path = Field(description="JSONL file")
    prompt_field: str = Field("prompt", description="holds a string or a list of {role, content}")
    reference_field: str = Field("references", description="holds a string or a list of gold answers; may be missing in the file")
    demonstration_field: str = Field("demonstrations", description="holds a preferred answer or a list of them; may be missing")
    limit: int = Field(0, ge=0, description="only the first so many prompts; 0 for all")


@dataclass(frozen=True)
class Prompt:
    """One prompt with its gold answers.

    Attributes:
        id: stable within the file.
        messages: (role, content) pairs.
        references: gold answers, best first.
        demonstrations: preferred answers written out, best first; samplers start from them or compare with them.
        tags: labels that programs route by.
    """

    id: str
    messages: tuple[tuple[str, str], ...]
    references: tuple[str, ...]
    tags: Mapping[str, str] = field(default_factory=dict)
    demonstrations: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The dialogue for people."""
        return "\n".join(content for _, content in self.messages)


class PromptSet:
    """All prompts of a source, shuffled anew in every epoch: an endless sequence, which a run walks from position 0.

    Attributes:
        by_id: every prompt.
    """

    def __init__(self, source: PromptSource, seed: int) -> None:
        prompts = read_prompts(source)
        self.by_id = {prompt.id: prompt for prompt in prompts}
        if len(self.by_id) != len(prompts):
            twice = [id_ for id_, count in Counter(prompt.id for prompt in prompts).items() if count > 1]
            raise ConfigError(f"{source.path}: prompt ids must be distinct, met twice: {', '.join(twice[:5])}")
        self._prompts = prompts
        self._seed = seed

    def take(self, position: int, count: int, without: Collection[str] = ()) -> tuple[list[Prompt], int]:
        """`count` distinct prompts from `position` on, and the position after the last one looked at.

        Those whose ids are in `without` are passed over; fewer than `count` come back when all others have been taken.
        """
        total = len(self._prompts)
        taken: dict[str, Prompt] = {}
        available = total - len(set(without) & set(self.by_id))
        while len(taken) < min(count, available):
            order = np.random.default_rng([self._seed, position // total]).permutation(total)
            for place in order[position % total :]:
                position += 1
                prompt = self._prompts[place]
                if prompt.id not in without:
                    taken.setdefault(prompt.id, prompt)
                if len(taken) == min(count, available):
                    break
        return list(taken.values()), position


def read_prompts(source: PromptSource) -> list[Prompt]:
    """Read every line, or the first `limit` prompts.

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
        if len(prompts) == source.limit:
            break
    if not prompts:
        raise ConfigError(f"prompts.path: {source.path} holds no prompts")
    return prompts


def _prompt(record: Any, number: int, source: PromptSource) -> Prompt:
    if not isinstance(record, dict):
        raise TypeError("is not a JSON object")
    if source.prompt_field not in record:
        raise KeyError(f"has no field {source.prompt_field!r}; its fields are {', '.join(record)} (see prompt_field)")
    turns = turns_of(record[source.prompt_field])
    tags = record.get("tags", {})
    if not isinstance(tags, dict):
        raise TypeError("tags: must be a mapping of strings")
    return Prompt(
        str(record.get("id", f"line{number}")),
        tuple(turns),
        _texts(record.get(source.reference_field, [])),
        {str(key): str(value) for key, value in tags.items()},
        _texts(record.get(source.demonstration_field, [])),
    )


def _texts(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(str(text) for text in value)
