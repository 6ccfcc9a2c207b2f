"""Finds the verifiers: every module of the given packages that has a `VERIFIER` is one, named as its file (with "-" for "_")."""

import importlib
import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from rewardmesh.verifier.verdicts import NoVerdict, SampleFields, Verdict

BUILT_IN = "rewardmesh.verifier.verifiers"


class Options(BaseModel):
    """Base of a verifier's options: unknown fields are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class LimitedOptions(Options):
    """Base of the options of a verifier that hostile text can drive beyond its limits."""

    on_timeout: Literal["absent", "fail"] = Field(
        "absent",
        description="What a completion gets whose check exceeds the limit of time or memory of one sample: no verdict, or FAIL, so that no "
        "policy gains from answers that hang the checker. A deadline of the call is never a FAIL.",
    )


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
    inline: bool = False
    """Whether `verify` takes time and memory linear in the text, whatever the text: no pattern that backtracks, no parser of formulas.
    It then runs in the server's own process, without limits, unless the text is long: cheaper than the way to a worker."""


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
            if verifier.name.replace("-", "_") != entry.name:
                raise ValueError(f"verifier {verifier.name!r} must live in a file of that name, not in {package_name}.{entry.name}")
            if verifier.name in found:
                raise ValueError(f"two verifiers are named {verifier.name!r}: one of them in {package_name}")
            found[verifier.name] = verifier
    return dict(sorted(found.items()))
