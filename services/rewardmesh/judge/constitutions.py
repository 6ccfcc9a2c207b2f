"""Constitutions: named lists of principles in files, mentioned by `@name` among an item's principles or by a template.

    name: kind-and-honest
    version: 1
    principles:
      - {id: honest, text: The answer says what it does not know., weight: 2}
      - {id: kind, text: The answer is friendly to the person who asks.}

The hash of what a file says is part of the fingerprint of every verdict that it took part in, so that a principle cannot change unseen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rewardmesh.judge.template import Criterion
from rewardmesh.serving import ConfigError
from rewardmesh.serving.config import describe_errors, nearest, read_yaml
from rewardmesh.serving.validation import absence
from rewardmesh.v1 import common_pb2 as pb

MENTION = "@"


@dataclass(frozen=True)
class Constitution:
    """One file.

    Attributes:
        version: counted by whoever writes it.
        source: the file, for messages.
        fingerprint: hash (hex) of its principles.
    """

    name: str
    version: int
    principles: tuple[Criterion, ...]
    source: str
    fingerprint: str


class Constitutions:
    """The constitutions of a server, by name.

    Args:
        paths: files, or directories of *.yaml.

    Raises:
        ConfigError: a missing path, a mistake in a file, two files with one name.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        self._known: dict[str, Constitution] = {}
        for file in [file for path in paths for file in yaml_files(Path(path), "constitution")]:
            constitution = read_constitution(file)
            if taken := self._known.get(constitution.name):
                raise ConfigError(f"{file}: name: {constitution.name!r} is already the name of {taken.source}")
            self._known[constitution.name] = constitution

    def get(self, name: str) -> Constitution | None:
        """The constitution of that name."""
        return self._known.get(name)

    @property
    def known(self) -> Mapping[str, Constitution]:
        """All of them."""
        return self._known

    def resolve(self, principles: Iterable[str]) -> tuple[tuple[Criterion, ...], tuple[str, ...]] | pb.Absence:
        """An item's principles with those of the constitutions it mentions in their places, and the fingerprints of these."""
        found: list[Criterion] = []
        prompts: list[str] = []
        for index, text in enumerate(principles):
            if not text.startswith(MENTION):
                found.append(Criterion(f"principle-{index + 1}", text))
                continue
            constitution = self._known.get(text.removeprefix(MENTION))
            if constitution is None:
                names = ", ".join(sorted(self._known)) or "none"
                hint = nearest(text.removeprefix(MENTION), self._known)
                detail = f"context.principles[{index}]: no constitution named {text.removeprefix(MENTION)!r}{hint}; known: {names}"
                return absence(pb.ABSENCE_REASON_INVALID_INPUT, detail)
            found += constitution.principles
            prompts.append(constitution.fingerprint)
        return tuple(found), tuple(prompts)

    def prompts(self, principles: Iterable[str]) -> tuple[str, ...]:
        """The fingerprints of the constitutions that principles mention; none where one is not known."""
        resolved = self.resolve(principles)
        return () if isinstance(resolved, pb.Absence) else resolved[1]


def read_constitution(file: Path) -> Constitution:
    """Read and check one file.

    Raises:
        ConfigError: what is wrong, with file and field.
    """
    document = read_yaml(file)
    try:
        parsed = _Document.model_validate(document)
    except ValidationError as error:
        raise ConfigError(describe_errors(error, str(file), _Document)) from error
    principles = tuple(Criterion(each.id, each.text, each.weight) for each in parsed.principles)
    # As with templates, the name is left out; so is the version, which says what the hash says.
    digest = hashlib.sha256(parsed.model_dump_json(include={"principles"}).encode()).hexdigest()[:16]
    return Constitution(parsed.name, parsed.version, principles, str(file), digest)


def yaml_files(path: Path, what: str) -> list[Path]:
    """A file, or the *.yaml of a directory; an empty one raises ConfigError."""
    if not path.is_dir():
        return [path]
    files = sorted(path.glob("*.yaml"))
    if not files:
        raise ConfigError(f"{path}: holds no {what} (*.yaml)")
    return files


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Principle(_Strict):
    id: str = Field(min_length=1)
    text: str = Field(min_length=1)
    weight: float = Field(1.0, gt=0, allow_inf_nan=False)


class _Document(_Strict):
    name: str = Field(min_length=1)
    version: int = Field(1, ge=1)
    principles: list[_Principle] = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> _Document:
        ids = [principle.id for principle in self.principles]
        if len(set(ids)) != len(ids):
            raise ValueError("principles: ids must be unique")
        return self
