"""Finds operators and shapes: every module of a package is one, named as its file. A new one is one new file and its test."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any


def discover(package_name: str, attribute: str) -> dict[str, Any]:
    """The `attribute` of every module in a package, by module name, ascending.

    Raises:
        AttributeError: a module that lacks it.
    """
    package = importlib.import_module(package_name)
    names = sorted(entry.name for entry in pkgutil.iter_modules(package.__path__) if not entry.name.startswith("_"))
    return {name: getattr(importlib.import_module(f"{package_name}.{name}"), attribute) for name in names}
