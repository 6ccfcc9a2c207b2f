"""Finds the verifiers: every module of the given packages that has a `VERIFIER` is one, named as its file."""

import importlib
import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from rewardmesh.verifier.verdicts import NoVerdict, SampleFields, Verdict

BUILT_IN = "rewardmesh.verifier.verifiers"


class Options(BaseModel):
    """Base of a verifier's options: unknown fields are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class Verifier:
    """One verifier.

    `verify(sample, options)` is pure and may be slow, greedy or stuck: it runs in a worker with limits. It returns a verdict, or
    NoVerdict when it cannot tell; an exception counts as NoVerdict(INFRASTRUCTURE).
    """

    name: str
    description: str
    needs: tuple[str, ...]
    """Fields of the sample it cannot do without: "completion.text", "completion.token_ids", "references"."""
    options: type[Options]
    verify: Callable[[SampleFields, Any], Verdict | NoVerdict]


def discover(packages: Iterable[str] = ()) -> dict[str, Verifier]:
    """The built-in verifiers and those of `packages` (importable names), by name, ascending.

    Raises ValueError when two share a name, or when a name differs from its file's.
    """
    found: dict[str, Verifier] = {}
    for package_name in (BUILT_IN, *packages):
        package = importlib.import_module(package_name)
        for entry in pkgutil.iter_modules(package.__path__):
            verifier = getattr(importlib.import_module(f"{package_name}.{entry.name}"), "VERIFIER", None)
            if not isinstance(verifier, Verifier):
                continue
            if verifier.name != entry.name:
                raise ValueError(f"verifier {verifier.name!r} must live in a file of that name, not in {package_name}.{entry.name}")
            if verifier.name in found:
                raise ValueError(f"two verifiers are named {verifier.name!r}: one of them in {package_name}")
            found[verifier.name] = verifier
    return dict(sorted(found.items()))
