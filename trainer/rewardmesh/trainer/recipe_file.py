"""A recipe file on its way to a Recipe: what it is based on, and what the command line changes.

A file may name a `base`: another recipe file (relative to it), of which it then says only what differs, or `embedded`, the models,
problems and services that this package can make on the spot. Sections are merged field by field; an algorithm that is named, and
every list, replaces the base's as a whole: the options of one algorithm mean nothing to another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from rewardmesh.serving.config import ConfigError, read_yaml

EMBEDDED = "embedded"
"""The base that is made on the spot instead of read from a file."""


def read_recipe(path: Path, changes: Sequence[str] = ()) -> dict[str, Any]:
    """The document of a recipe, file bases merged and `changes` (each "path.to.field=value") made last.

    Its `base` is there only when it is `embedded`.

    Raises:
        ConfigError: unreadable files, a base that leads back to itself, a change that is none.
    """
    document = _with_bases(path, ())
    for change in changes:
        _change(document, change)
    return document


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the fields of `over`, which wins."""
    result = dict(base)
    for key, value in over.items():
        here = result.get(key)
        replaces = key == "algorithm" and isinstance(value, Mapping) and "name" in value
        result[key] = merged(here, value) if isinstance(here, Mapping) and isinstance(value, Mapping) and not replaces else value
    return result


def _with_bases(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in seen:
        raise ConfigError(f"{path}: base: leads back to itself")
    document = read_yaml(path)
    base = document.get("base")
    if base is None or base == EMBEDDED:
        return document
    if not isinstance(base, str):
        raise ConfigError(f"{path}: base: must be {EMBEDDED} or the path of another recipe, is {base!r}")
    beneath = path.parent / base
    if not beneath.is_file():
        raise ConfigError(f"{path}: base: there is no file {beneath}; name another recipe, or {EMBEDDED}")
    del document["base"]
    return merged(_with_bases(beneath, (*seen, path.resolve())), document)


def _change(document: dict[str, Any], change: str) -> None:
    """Set one field; the path's parts are names, or places in a list from 0."""
    path, equals, text = change.partition("=")
    parts = path.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"--set {change}: must be path.to.field=value, such as algorithm.beta=0.2")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {change}: the value is not YAML: {error}") from error
    at: Any = document
    for depth, part in enumerate(parts):
        where = ".".join(parts[: depth + 1])
        place: Any = part
        if isinstance(at, list):
            if not part.isdecimal() or int(part) >= len(at):
                raise ConfigError(f"--set {change}: {where}: the list has places 0 to {len(at) - 1}")
            place = int(part)
        if depth == len(parts) - 1:
            at[place] = value
            return
        if isinstance(at, dict) and at.get(part) is None:
            at[part] = {}
        at = at[place]
        if not isinstance(at, dict | list):
            raise ConfigError(f"--set {change}: {where}: is no section")
