"""What the audit commands share: thresholds, a progress bar, the report, and how they end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rewardmesh.cli.failure import USAGE, fail

if TYPE_CHECKING:
    from rich.console import Console

    from rewardmesh.audit import Audit
    from rewardmesh.client import AsyncClient

OnProgress = Callable[[str, int, int], None]
Begin = Callable[[OnProgress], Coroutine[Any, Any, "Audit"]]
Partial = Callable[[], "Audit"]
"""What has been finished so far, as an audit that cannot pass."""
_HEALTH_S = 10.0


def read_thresholds(file: Path | None, given: Sequence[str]) -> dict[str, float]:
    """Thresholds from a YAML mapping, and NAME=VALUE from the command line, which win."""
    from rewardmesh.serving.config import read_yaml

    found: dict[str, float] = {}
    if file is not None:
        for name, value in read_yaml(file).items():
            found[name] = _number(f"--thresholds: {file}: {name}", value)
    for text in given:
        name, separator, value = text.partition("=")
        if not separator:
            fail(f"--threshold: {text!r} is not NAME=VALUE", USAGE)
        found[name] = _number(f"--threshold: {name}", value)
    return found


def check_target(target: str) -> None:
    """Refuse an address that is none."""
    from rewardmesh.client.balancing.targets import parse_target

    try:
        parse_target(target)
    except ValueError as error:
        fail(f"--target: {error}", USAGE)


async def require_serving(client: AsyncClient) -> None:
    """Refuse a server that is away or not ready: an audit of it would say how often it is absent, and nothing of its verdicts.

    Raises:
        CallFailed: it does not answer.
        AuditError: it answers that it is not serving.
    """
    from rewardmesh.audit import AuditError
    from rewardmesh.client import CallFailed

    try:
        status = await client.health(timeout_s=min(client.timeout_s or _HEALTH_S, _HEALTH_S))
    except CallFailed as failure:
        if failure.code.name == "UNIMPLEMENTED":
            return
        raise
    if status != "SERVING":
        raise AuditError(f"{client.target}: is {status}; wait until it is ready, or see its log")


def run(console: Console, out: Path, audit: Begin, partial: Partial) -> Audit:
    """Run an audit to its end and write its report; when it ends early, the report of what was finished. Interrupted: exit code 130.

    Figures are shown even when the report cannot be written.
    """
    from rewardmesh.audit import AuditError
    from rewardmesh.client import CallFailed

    def keep() -> bool:
        unfinished = partial()
        if unfinished.sections:
            _conclude(console, unfinished, out)
        return bool(unfinished.sections)

    try:
        with _progress(console) as on_progress:
            found = asyncio.run(audit(on_progress))
    except KeyboardInterrupt:
        fail("interrupted" if keep() else "interrupted; nothing was finished", 130)
    except (AuditError, CallFailed):
        keep()
        raise
    _conclude(console, found, out)
    return found


def show(console: Console, audit: Audit, report: Path | None) -> None:
    """The figures as a table, the verdict, and where the report lies."""
    from rich.table import Column, Table

    table = Table(Column("figure", no_wrap=True), "value", "95 % interval", "threshold", "")
    for figure in audit.figures:
        estimate = figure.estimate
        interval = "" if estimate.low is None or estimate.high is None else f"{estimate.low:.3g} to {estimate.high:.3g}"
        relation = {"lower": "at most", "higher": "at least", "zero": "within ±"}[figure.spec.better]
        limit = "" if figure.threshold is None else f"{relation} {figure.threshold:g}"
        met = {True: "met", False: "NOT MET", None: ""}[figure.met]
        table.add_row(figure.name, f"{figure.value:.4g} {figure.spec.unit}".rstrip(), interval, limit, met)
    console.print(table)
    for name, reason in audit.missing.items():
        console.print(f"not measured: {name}: {reason}", highlight=False, markup=False, soft_wrap=True)
    for failure in audit.failures:
        console.print(f"failed: {failure}", highlight=False, markup=False, soft_wrap=True)
    verdict = "passed" if audit.passed else "not passed"
    console.print(f"{verdict}; report: {report or 'not written'}", highlight=False, markup=False, soft_wrap=True)


@contextmanager
def failures() -> Iterator[None]:
    """What a person can mend ends the command with one line."""
    from rewardmesh.audit import AuditError
    from rewardmesh.client import CallFailed
    from rewardmesh.serving.config import ConfigError

    try:
        yield
    except (AuditError, ConfigError) as error:
        fail(error, USAGE)
    except CallFailed as error:
        hint = " (is this the address of another kind of service?)" if error.code.name == "UNIMPLEMENTED" else ""
        fail(f"{error}{hint}")
    except OSError as error:
        fail(f"{error.filename or ''}: {error.strerror or error}".removeprefix(": "))
    except Exception as error:
        # LoadError lives in a module that loads torch; importing it here would slow every --help.
        if type(error).__name__ != "LoadError":
            raise
        fail(error)


def one_of(options: Mapping[str, object], what: str) -> None:
    """Refuse none or several of options that exclude each other."""
    if sum(bool(value) for value in options.values()) != 1:
        fail(f"give exactly one of {', '.join(options)}: {what}", USAGE)


@contextmanager
def _progress(console: Console) -> Iterator[OnProgress]:
    """A bar for each part of an audit, made when it begins."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description:>16}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bars:
        tasks: dict[str, TaskID] = {}

        def on_progress(part: str, done: int, asked: int) -> None:
            if part not in tasks:
                tasks[part] = bars.add_task(part.replace("_", " "), total=asked)
            bars.update(tasks[part], completed=done, total=asked)

        yield on_progress


def _conclude(console: Console, audit: Audit, out: Path) -> None:
    from rewardmesh.audit.report import write_report

    report: Path | None = None
    try:
        report = write_report(audit, out)
    finally:
        show(console, audit, report)


def _number(where: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        fail(f"{where}: {value!r} is no number", USAGE)
    try:
        return float(value)
    except ValueError:
        fail(f"{where}: {value!r} is no number", USAGE)
