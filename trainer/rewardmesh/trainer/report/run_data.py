"""A run folder as the report reads it. A run may be unfinished or damaged: what can't be read becomes a note, not a failure."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from rewardmesh.trainer.history import History, HistoryError
from rewardmesh.trainer.ledger import Ledger, LedgerError
from rewardmesh.trainer.report.evaluation import EvaluationError, EvaluationRow, read_evaluation
from rewardmesh.trainer.report.numbers import number

T = TypeVar("T")


@dataclass(frozen=True)
class TrainingStep:
    """One step's rows of the ledger, as dicts keyed by column."""

    step: int
    rows: Sequence[Mapping[str, object]]


@dataclass
class RunData:
    """Everything of a run folder that the report shows; `notes` says what is missing or broken."""

    name: str
    summary: Mapping[str, object] = field(default_factory=dict)
    metrics: Sequence[Mapping[str, object]] = ()
    before: Sequence[EvaluationRow] = ()
    after: Sequence[EvaluationRow] = ()
    training: Sequence[TrainingStep] = ()
    ledger_state: str = "There is no ledger."
    configs: Sequence[tuple[str, str]] = ()
    notes: list[str] = field(default_factory=list)


def load_run(folder: Path) -> RunData:
    """Reads summary.json, metrics.jsonl, ledger/, eval_before.parquet, eval_after.parquet and the YAML files of a run folder."""
    notes: list[str] = []
    run = RunData(name=folder.resolve().name, notes=notes)
    run.summary = _or_note(notes, lambda: _read_summary(folder / "summary.json"), {})
    if not run.summary:
        notes.append("There is no summary: the run was interrupted, failed, or is still going on. What is below is what it left so far.")
    elif run.summary.get("finished") is False:
        notes.append("The run did not finish; the numbers after training are those of its last checkpoint, as far as there are any.")
    run.metrics = _or_note(notes, History(folder / "metrics.jsonl").read, [])
    if not run.metrics:
        notes.append("No training step was recorded.")
    elif not any(number(record.get("reward_mean")) is not None for record in run.metrics):
        notes.append("No step has a reward: every score was absent, or the rewards were not recorded.")
    run.before = _or_note(notes, lambda: _read_evaluation(folder / "eval_before.parquet", "before"), [])
    run.after = _or_note(notes, lambda: _read_evaluation(folder / "eval_after.parquet", "after"), [])
    _load_ledger(run, Ledger(folder / "ledger"))
    run.configs = [_config(path) for pattern in ("*.yaml", "*.yml") for path in sorted(folder.glob(pattern))]
    return run


class _Missing(Exception):
    """Something the run folder may lack; the message is the note."""


def _or_note(notes: list[str], read: Callable[[], T], otherwise: T) -> T:
    try:
        return read()
    except (_Missing, HistoryError, LedgerError, EvaluationError) as error:
        notes.append(str(error))
        return otherwise


def _read_summary(path: Path) -> Mapping[str, object]:
    if not path.exists():
        return {}
    try:
        summary = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise _Missing(f"{path}: the summary could not be read: {error}") from error
    if not isinstance(summary, dict):
        raise _Missing(f"{path}: the summary is not a JSON object")
    return summary


def _read_evaluation(path: Path, when: str) -> Sequence[EvaluationRow]:
    if not path.exists():
        raise _Missing(f"There is no held-out evaluation {when} training yet.")
    return read_evaluation(path)


def _load_ledger(run: RunData, ledger: Ledger) -> None:
    steps = ledger.steps()
    if not steps:
        return
    recorded = [step for record in run.metrics if isinstance(step := record["step"], int)] or steps
    first, last = min(steps[0], recorded[0]), max(steps[-1], recorded[-1])
    try:
        count = ledger.check(first_step=first, last_step=last)
        run.ledger_state = (
            f"The ledger adds up: steps {first} to {last}, {count.groups:,} complete groups, {count.samples:,} samples, none twice, "
            f"{count.absent:,} without a reward."
        )
    except LedgerError as error:
        run.ledger_state = f"The ledger does not add up. {error}"
        run.notes.append(run.ledger_state)
    shown = dict.fromkeys((steps[0], steps[len(steps) // 2], steps[-1]))
    try:
        run.training = [TrainingStep(step, ledger.read(steps=[step]).to_pylist()) for step in shown]
    except LedgerError as error:
        run.notes.append(str(error))


def _config(path: Path) -> tuple[str, str]:
    try:
        return path.name, path.read_text(encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        return path.name, f"could not be read: {error}"
