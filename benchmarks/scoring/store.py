"""Results on disk: written after every single measurement, so that nothing is lost when a run is broken off, and merged by a later one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


class Store:
    """A JSON document that is saved whenever a part of it changes.

    Raises:
        ValueError: the file is there and no JSON object.
    """

    def __init__(self, path: Path, *, keep: bool) -> None:
        """keep: whether what the file holds stays where this run measures nothing new."""
        self.path = path
        self.document: dict[str, Any] = {}
        if keep and path.exists():
            try:
                self.document = json.loads(path.read_text())
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from error
            if not isinstance(self.document, dict):
                raise ValueError(f"{path}: is no JSON object")

    def get(self, *keys: str) -> Any:
        """What is under these keys; None when nothing is."""
        found: Any = self.document
        for key in keys:
            found = found.get(key) if isinstance(found, dict) else None
        return found

    def put(self, value: Any, *keys: str) -> None:
        """Set a value under these keys and save."""
        place = self.document
        for key in keys[:-1]:
            place = place.setdefault(key, {})
        place[keys[-1]] = value
        self.save()

    def save(self) -> None:
        """Write the file in one step: a reader sees the old one or the new one."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(self.document, indent=2) + "\n")
        os.replace(partial, self.path)
