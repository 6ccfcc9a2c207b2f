"""The corpus of texts that try to talk a judge over, and those of a user, read from YAML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from rewardmesh.audit.errors import AuditError


@dataclass(frozen=True)
class Injection:
    """A text to append to an answer, and what kind of trick it is."""

    kind: str
    text: str


@dataclass(frozen=True)
class Corpus:
    """Injections, and texts of like length that try nothing."""

    injections: tuple[Injection, ...]
    controls: tuple[str, ...]


def built_in() -> Corpus:
    """The corpus beside this module."""
    return read_corpus(Path(str(resources.files(__package__))) / "injections.yaml")


def read_corpus(path: Path) -> Corpus:
    """Read a corpus: `injections` is a list of {kind, text}, `controls` a list of texts that may be left out.

    Raises:
        AuditError: what is wrong, with file and field.
    """
    try:
        document: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise AuditError(f"{path}: cannot be read: {error}") from error
    if not isinstance(document, dict) or set(document) - {"injections", "controls"} or not document.get("injections"):
        raise AuditError(f"{path}: must hold injections: [{{kind, text}}, ...] and perhaps controls: [text, ...], nothing else")
    injections = [_injection(path, index, each) for index, each in enumerate(_list(path, document, "injections"))]
    controls = _list(path, document, "controls")
    for index, text in enumerate(controls):
        if not isinstance(text, str) or not text:
            raise AuditError(f"{path}: controls[{index}]: must be a text")
    return Corpus(tuple(injections), tuple(controls))


def _list(path: Path, document: dict[str, Any], field: str) -> Sequence[Any]:
    found = document.get(field, [])
    if not isinstance(found, list):
        raise AuditError(f"{path}: {field}: must be a list")
    return found


def _injection(path: Path, index: int, each: object) -> Injection:
    if not isinstance(each, dict) or set(each) != {"kind", "text"} or not all(isinstance(value, str) and value for value in each.values()):
        raise AuditError(f"{path}: injections[{index}]: must be {{kind: ..., text: ...}}, both texts")
    return Injection(each["kind"], each["text"])
