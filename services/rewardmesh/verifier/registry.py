"""Finds the verifiers: every module of the given packages that has a `VERIFIER` is one, named as its file (with "-" for "_")."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from rewardmesh.verifier.verdicts import NoVerdict, Reason, SampleFields, Verdict

if TYPE_CHECKING:  # workers need none of it
    from rewardmesh.verifier.sandbox.sandboxes import Sandboxes

BUILT_IN = "rewardmesh.verifier.verifiers"
MORE = frozenset({"context.notes", "group_id", "completion.policy", "completion.sampling_log_probs"})
"""Fields of a sample that are read only for verifiers that name them: reading is most of what a cheap check costs."""


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
class Measured:
    """How a verifier did on labelled examples."""

    examples: int
    """Those it gave a verdict on."""
    precision: float | None
    """Share of its passes that were right; None without any."""
    recall: float | None
    """Share of the right examples that it passed; None without any."""
    absent: int = 0
    """Examples on which it gave none."""


@dataclass(frozen=True)
class Verifier:
    """One verifier.

    `verify(sample, options)` is pure and may be slow, greedy or stuck: it runs in a worker with limits. It returns a verdict, or
    NoVerdict when it cannot tell; an exception counts as NoVerdict(INFRASTRUCTURE).
    """

    name: str
    description: str
    needs: tuple[str, ...]
    """Fields of the sample it cannot do without: "completion.text", "completion.token_ids", "references", "step_starts", or one of MORE."""
    options: type[Options]
    verify: Callable[[SampleFields, Any], Verdict | NoVerdict]
    inline: bool | Callable[[SampleFields, Any], bool] = False
    """Whether `verify` takes time and memory linear in the text, whatever the text: no pattern that backtracks, no parser of formulas.
    It then runs in the server's own process, without limits, unless the text is long: cheaper than the way to a worker. A function
    of the sample and the options decides it: it must be quick."""
    reads: tuple[str, ...] = ()
    """Those of MORE that it reads when they are there."""

    verify_group: Callable[[Sequence[SampleFields], Any], Sequence[Verdict | NoVerdict]] | None = None
    """Judges samples of one group together, one result each, in order; always in a worker. None: each sample is judged by itself."""

    check: Callable[[SampleFields, Any, Sandboxes], Awaitable[Verdict | NoVerdict]] | None = None
    """Checks by running untrusted code, on the event loop and in the sandboxes it is given; `verify` is then never asked."""

    measured: Measured | None = None

    @cached_property
    def more(self) -> frozenset[str]:
        """Those of MORE that it needs or reads."""
        return MORE & {*self.needs, *self.reads}


def judging_groups(
    name: str,
    description: str,
    needs: tuple[str, ...],
    options: type[Options],
    verify_group: Callable[[Sequence[SampleFields], Any], Sequence[Verdict | NoVerdict]],
    reads: tuple[str, ...] = (),
) -> Verifier:
    """A verifier that judges the samples of a group together; a sample without a group is one of its own."""

    def verify(sample: SampleFields, options: Options) -> Verdict | NoVerdict:
        return verify_group([sample], options)[0]

    return Verifier(name, description, needs, options, verify, reads=("group_id", *reads), verify_group=verify_group)


def in_sandboxes(
    name: str,
    description: str,
    needs: tuple[str, ...],
    options: type[Options],
    check: Callable[[SampleFields, Any, Sandboxes], Awaitable[Verdict | NoVerdict]],
    measured: Measured | None = None,
) -> Verifier:
    """A verifier that runs untrusted code."""

    def verify(sample: SampleFields, options: Options) -> NoVerdict:
        return NoVerdict(Reason.NOT_APPLICABLE, f"verifier {name} runs code, for which a server has sandboxes and a worker has none")

    return Verifier(name, description, needs, options, verify, check=check, measured=measured)


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
