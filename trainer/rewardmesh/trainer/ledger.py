"""The ledger: one row for every sample the trainer ever asked a reward for, one Parquet file per step.

It answers, after the fact, which text got which reward from which model version, and what the update made of it. A step's file
is written whole or not at all, and a step that is run again after a resume replaces its own file, so no sample is lost or
counted twice; `check` proves it.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rewardmesh.trainer.atomic import atomic_file, remove_temporaries, sync_folder
from rewardmesh.trainer.samples import Group, IntArray

SCHEMA = pa.schema(
    [
        pa.field("step", pa.int64(), nullable=False),
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("group_id", pa.string(), nullable=False),
        pa.field("group_index", pa.int32(), nullable=False),
        pa.field("group_size", pa.int32(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("completion", pa.string(), nullable=False),
        pa.field("references", pa.list_(pa.string()), nullable=False),
        pa.field("prompt_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("completion_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("length", pa.int32(), nullable=False),
        pa.field("finish_reason", pa.string(), nullable=False),
        pa.field("policy_version", pa.int64(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("sampling_log_prob", pa.float64(), nullable=False),
        pa.field("reference_log_prob", pa.float64()),
        pa.field("reward", pa.float64()),
        pa.field("absence", pa.string()),
        pa.field("absence_detail", pa.string()),
        pa.field("advice", pa.string(), nullable=False),
        pa.field("attempts", pa.int32(), nullable=False),
        pa.field("components", pa.map_(pa.string(), pa.float64()), nullable=False),
        pa.field("component_absences", pa.map_(pa.string(), pa.string()), nullable=False),
        pa.field("provenance", pa.map_(pa.string(), pa.string()), nullable=False),
        pa.field("credit", pa.float64()),
        pa.field("credit_kind", pa.string()),
    ]
)
_STEP_FILE = re.compile(r"step-(\d{6,})\.parquet")
_NO_IDS: IntArray = np.zeros(0, dtype=np.int32)


class LedgerError(Exception):
    """The ledger can't be written or read, or it doesn't add up; the message names the path and the details."""


@dataclass(frozen=True)
class LedgerRow:
    """One sample of one step; the fields are the columns of `SCHEMA`.

    Exactly one of `reward` and `absence` (a reason name) is set. Log-probs are sums over the completion's tokens (nats), `length`
    counts completion tokens, `provenance` maps a signal to what its service said about itself. `credit` is what the sample weighed
    in the update and `credit_kind` says in which sense; both are None where the sample was left out of it.
    """

    sample_id: str
    group_id: str
    group_index: int
    group_size: int
    prompt: str
    completion: str
    finish_reason: str
    policy_version: int
    sampling_log_prob: float
    reward: float | None
    absence: str | None
    length: int
    reference_log_prob: float | None = None
    absence_detail: str | None = None
    advice: str = ""
    attempts: int = 1
    prompt_ids: IntArray = field(default_factory=lambda: _NO_IDS)
    completion_ids: IntArray = field(default_factory=lambda: _NO_IDS)
    components: Mapping[str, float | None] = field(default_factory=dict)
    component_absences: Mapping[str, str] = field(default_factory=dict)
    provenance: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    credit: float | None = None
    credit_kind: str | None = None
    references: Sequence[str] = ()
    source: str = "policy"


@dataclass(frozen=True)
class LedgerCount:
    """What a ledger that adds up holds."""

    steps: int
    groups: int
    samples: int
    absent: int


def rows_of_group(
    group: Group,
    *,
    credit: Sequence[float | None] | None = None,
    credit_kind: str | None = None,
    attempts: Sequence[int] | None = None,
    absence_details: Sequence[str | None] | None = None,
) -> list[LedgerRow]:
    """The rows of a resolved group, in its order. Optional sequences have one entry per sample; a None credit means left out."""
    size = len(group.rollouts)
    for name, values in (("credit", credit), ("attempts", attempts), ("absence_details", absence_details)):
        if values is not None and len(values) != size:
            raise LedgerError(f"group {group.id!r}: {name} has {len(values)} entries for {size} samples")
    rows = []
    for index, (rollout, scores, reference) in enumerate(zip(group.rollouts, group.scores, group.reference_log_probs, strict=True)):
        weight = None if credit is None else credit[index]
        rows.append(
            LedgerRow(
                sample_id=rollout.id,
                group_id=group.id,
                group_index=index,
                group_size=size,
                prompt=rollout.prompt_text,
                completion=rollout.text,
                references=tuple(group.references),
                prompt_ids=rollout.prompt_ids,
                completion_ids=rollout.completion_ids,
                length=len(rollout.completion_ids),
                finish_reason=rollout.finish_reason,
                policy_version=rollout.policy_version,
                source=rollout.source,
                sampling_log_prob=float(np.sum(rollout.sampling_log_probs, dtype=np.float64)),
                reference_log_prob=None if reference is None else float(np.sum(reference, dtype=np.float64)),
                reward=scores.reward,
                absence=scores.absence,
                absence_detail=None if absence_details is None else absence_details[index],
                advice=scores.advice,
                attempts=1 if attempts is None else attempts[index],
                components=scores.components,
                component_absences=scores.component_absences,
                provenance=scores.provenance,
                credit=weight,
                credit_kind=None if weight is None else credit_kind,
            )
        )
    return rows


class Ledger:
    """The ledger in a folder. One process writes; any number may read at the same time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, step: int) -> Path:
        """Where the rows of `step` are."""
        return self.folder / f"step-{step:06d}.parquet"

    def steps(self) -> list[int]:
        """Steps that have been written, ascending; empty where there is no ledger yet."""
        if not self.folder.is_dir():
            return []
        return sorted(int(match[1]) for path in self.folder.iterdir() if (match := _STEP_FILE.fullmatch(path.name)))

    def write(self, step: int, rows: Sequence[LedgerRow]) -> Path:
        """Writes (or replaces) a step's file, whole or not at all. A step without samples is written too.

        Raises LedgerError for rows that can't be true (a reward beside an absence, a number that isn't finite, a repeated id,
        text that isn't Unicode) and when the file system refuses.
        """
        _check_rows(step, rows)
        table = _table(step, rows)
        path = self.path(step)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with atomic_file(path) as file:
                buffer = pa.BufferOutputStream()
                pq.write_table(table, buffer, compression="zstd")
                file.write(memoryview(buffer.getvalue()))
        except OSError as error:
            raise LedgerError(f"{path}: the ledger of step {step} could not be written: {error}") from error
        return path

    def truncate_after(self, step: int) -> list[int]:
        """Removes every step after `step` (the last one of the checkpoint a run resumes from) and returns those removed."""
        removed = [later for later in self.steps() if later > step]
        try:
            for later in reversed(removed):  # from the end, so that a kill on the way leaves no hole
                self.path(later).unlink()
            if self.folder.is_dir():
                remove_temporaries(self.folder)
                sync_folder(self.folder)
        except OSError as error:
            raise LedgerError(f"{self.folder}: steps after {step} could not be removed: {error}") from error
        return removed

    def read(self, *, columns: Sequence[str] | None = None, steps: Iterable[int] | None = None) -> pa.Table:
        """All rows (or those of `steps`) as one table in step order; an empty table with the schema where there are none."""
        chosen = self.steps() if steps is None else sorted(set(steps))
        fields = [SCHEMA.field(name) for name in columns] if columns is not None else list(SCHEMA)
        return pa.concat_tables([pa.schema(fields).empty_table(), *(self._read_step(step, columns) for step in chosen)])

    def merge(self, to: Path) -> int:
        """Writes every row into the one file `to`, a step at a time so that memory stays bounded; returns the number of rows."""
        rows = 0
        try:
            with atomic_file(to) as file, pq.ParquetWriter(file, SCHEMA, compression="zstd") as writer:
                for step in self.steps():
                    table = self._read_step(step, None)
                    if table.num_rows:
                        writer.write_table(table)
                    rows += table.num_rows
        except OSError as error:
            raise LedgerError(f"{to}: the ledger could not be merged: {error}") from error
        return rows

    def check(self, *, first_step: int = 1, last_step: int | None = None) -> LedgerCount:
        """Proves that every step from `first_step` to `last_step` (default: the last one written) is there, that no sample is counted
        twice and that every group is complete. Raises LedgerError with everything that isn't so.
        """
        steps = self.steps()
        last = last_step if last_step is not None else max(steps, default=first_step - 1)
        problems = [f"step {step} is missing" for step in range(first_step, last + 1) if step not in set(steps)]
        problems += [f"step {step} is outside {first_step}..{last}" for step in steps if not first_step <= step <= last]
        seen: dict[str, int] = {}
        groups = absent = 0
        for step in steps:
            table = self._read_step(step, ["step", "sample_id", "group_id", "group_index", "group_size", "absence"])
            columns = {name: table.column(name).to_pylist() for name in table.column_names}
            if any(value != step for value in columns["step"]):
                problems.append(f"{self.path(step)} holds rows of other steps")
            for sample_id in columns["sample_id"]:
                if sample_id in seen:
                    problems.append(f"sample {sample_id!r} is in step {seen[sample_id]} and in step {step}")
                seen[sample_id] = step
            members: dict[str, list[tuple[int, int]]] = {}
            for group_id, index, size in zip(columns["group_id"], columns["group_index"], columns["group_size"], strict=True):
                members.setdefault(group_id, []).append((index, size))
            problems += [_incomplete(step, group_id, entries) for group_id, entries in members.items() if not _complete(entries)]
            groups += len(members)
            absent += sum(reason is not None for reason in columns["absence"])
        if problems:
            shown, more = problems[:20], len(problems) - 20
            raise LedgerError(f"{self.folder}: " + "; ".join(shown) + (f"; and {more} more" if more > 0 else ""))
        return LedgerCount(steps=len(steps), groups=groups, samples=len(seen), absent=absent)

    def _read_step(self, step: int, columns: Sequence[str] | None) -> pa.Table:
        path = self.path(step)
        try:
            with pq.ParquetFile(path) as file:
                if not file.schema_arrow.equals(SCHEMA):
                    raise LedgerError(f"{path}: not a ledger of this version (its columns differ)")
                return file.read(columns=None if columns is None else list(columns))
        except (OSError, pa.ArrowException) as error:
            raise LedgerError(f"{path}: the ledger of step {step} could not be read: {error}") from error


def _complete(entries: Sequence[tuple[int, int]]) -> bool:
    size = entries[0][1]
    return all(entry[1] == size for entry in entries) and sorted(index for index, _ in entries) == list(range(size))


def _incomplete(step: int, group_id: str, entries: Sequence[tuple[int, int]]) -> str:
    return f"group {group_id!r} of step {step} is incomplete: samples {sorted(i for i, _ in entries)} of {max(s for _, s in entries)}"


def _check_rows(step: int, rows: Sequence[LedgerRow]) -> None:
    if step < 0:
        raise LedgerError(f"step {step} is negative")
    seen: set[str] = set()
    for row in rows:
        where = f"step {step}, sample {row.sample_id!r}"
        if not row.sample_id or not row.group_id:
            raise LedgerError(f"{where}: a sample and its group need an id")
        if row.sample_id in seen:
            raise LedgerError(f"{where}: the id is there twice")
        seen.add(row.sample_id)
        if (row.reward is None) == (row.absence is None):
            raise LedgerError(f"{where}: needs a reward or the reason of its absence, got reward {row.reward} and absence {row.absence}")
        for name, value in _numbers(row):
            if value is not None and not math.isfinite(value):
                raise LedgerError(f"{where}: {name} is {value}; record a number that isn't finite as an absence (NON_FINITE)")


def _numbers(row: LedgerRow) -> Iterator[tuple[str, float | None]]:
    yield "reward", row.reward
    yield "sampling_log_prob", row.sampling_log_prob
    yield "reference_log_prob", row.reference_log_prob
    yield "credit", row.credit
    for name, value in row.components.items():
        yield f"component {name!r}", value


def _table(step: int, rows: Sequence[LedgerRow]) -> pa.Table:
    arrays = []
    for column in SCHEMA:
        values = [step if column.name == "step" else _cell(step, column.name, row) for row in rows]
        try:
            arrays.append(pa.array(values, type=column.type))
        except (pa.ArrowException, UnicodeEncodeError, OverflowError, TypeError, ValueError) as error:
            raise LedgerError(f"step {step}, {_culprit(column, rows, values)}: can't be stored: {error}") from error
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def _cell(step: int, name: str, row: LedgerRow) -> object:
    value = getattr(row, name)
    if name == "provenance":
        try:
            return [(signal, json.dumps(record, sort_keys=True, allow_nan=False, default=_plain)) for signal, record in value.items()]
        except (TypeError, ValueError) as error:
            raise LedgerError(f"step {step}, sample {row.sample_id!r}: provenance can't be stored as JSON: {error}") from error
    return list(value.items()) if isinstance(value, Mapping) else value


def _plain(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is not JSON")


def _culprit(column: pa.Field, rows: Sequence[LedgerRow], values: Sequence[object]) -> str:
    for row, value in zip(rows, values, strict=True):
        try:
            pa.array([value], type=column.type)
        except (pa.ArrowException, UnicodeEncodeError, OverflowError, TypeError, ValueError):
            return f"sample {row.sample_id!r}, column {column.name}"
    return f"column {column.name}"
