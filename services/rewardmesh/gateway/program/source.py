"""The text of a program: YAML with the line of every field, so that a mistake can be pointed at."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from rewardmesh.serving.config import ConfigError

Path = tuple[str | int, ...]


class ProgramError(ConfigError):
    """A program that cannot be used; the message is `file:line: path.to.field: what is wrong`."""


@dataclass(frozen=True)
class Source:
    """A program's text, read.

    Attributes:
        name: file name, for messages.
        data: the YAML document as plain Python values.
        lines: line (from 1) on which the value at each path begins.
    """

    name: str
    data: Any
    lines: Mapping[Path, int]

    def error(self, path: Path, message: str) -> ProgramError:
        """A mistake at a path; a path that is not in the text is reported at the line of its nearest parent."""
        known = path
        while known and known not in self.lines:
            known = known[:-1]
        line = self.lines.get(known, 1)
        return ProgramError(f"{self.name}:{line}: {render_path(path) or 'document'}: {message}")


class _Loader(yaml.SafeLoader):
    """YAML 1.1, but 1e-3 is a number, as in YAML 1.2."""


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789"))


def render_path(path: Path) -> str:
    """`("sum", 1, "of")` as `sum[1].of`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")


def read_source(text: str, name: str) -> Source:
    """Read YAML.

    Raises:
        ProgramError: not YAML, several documents, a key that is repeated or no string, an alias (the text must say what it means).
    """
    try:
        loader = _Loader(text)
    except yaml.YAMLError as error:  # a character that YAML does not allow
        raise ProgramError(f"{name}:1: document: is not YAML: {error}") from error
    try:
        root = loader.get_single_node()
        if root is None:
            raise ProgramError(f"{name}:1: document: is empty")
        lines: dict[Path, int] = {}
        _walk(root, (), lines, set(), name)
        data = loader.construct_document(root)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ProgramError(f"{name}:{line}: document: is not YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise ProgramError(f"{name}:1: document: is not YAML: {error}") from error
    except RecursionError as error:
        raise ProgramError(f"{name}:1: document: is nested too deeply") from error
    except ProgramError:
        raise
    except ValueError as error:  # a scalar that only looks like a date or number
        raise ProgramError(f"{name}:1: document: {error}") from error
    finally:
        loader.dispose()
    return Source(name, data, lines)


def _walk(node: yaml.Node, path: Path, lines: dict[Path, int], seen: set[int], name: str) -> None:
    line = node.start_mark.line + 1
    lines[path] = line
    where = f"{name}:{line}: {render_path(path) or 'document'}"
    if id(node) in seen:
        raise ProgramError(f"{where}: aliases are not allowed, write the value out")
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        keys: set[str] = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str":
                shown = f"{key.value!r} (line {key.start_mark.line + 1})" if isinstance(key, yaml.ScalarNode) else "a key"
                raise ProgramError(f"{where}: {shown} is no string; put keys such as yes, no and numbers in quotes")
            if key.value in keys:
                raise ProgramError(f"{name}:{key.start_mark.line + 1}: {render_path((*path, key.value))}: is given twice")
            keys.add(key.value)
            _walk(value, (*path, key.value), lines, seen, name)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _walk(value, (*path, index), lines, seen, name)
