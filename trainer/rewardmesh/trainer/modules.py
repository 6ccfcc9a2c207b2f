"""Modules of a package that recipes name (algorithms, samplers): adding one is adding its file; a leading underscore keeps one out."""

import importlib
import pkgutil
from types import ModuleType

from rewardmesh.serving.config import nearest


def known_modules(package: str) -> tuple[str, ...]:
    """Names that `named_module` accepts, in order."""
    path = importlib.import_module(package).__path__
    return tuple(sorted(module.name for module in pkgutil.iter_modules(path) if not module.name.startswith("_")))


def named_module(package: str, kind: str, name: str) -> ModuleType:
    """The module `name` of `package`; ValueError for an unknown one, as a `kind`, lists the known ones and the nearest."""
    known = known_modules(package)
    if name not in known:
        raise ValueError(f"unknown {kind} {name!r}{nearest(name, known)}, known: {', '.join(known)}")
    return importlib.import_module(f"{package}.{name}")
