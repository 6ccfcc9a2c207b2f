"""Evaluations on held-out problems: one row per problem and way of decoding, in `eval_before.parquet` and `eval_after.parquet`."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rewardmesh.trainer.atomic import atomic_file

SCHEMA = pa.schema(
    [
        pa.field("problem_id", pa.string(), nullable=False),
        pa.field("decoding", pa.string(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("reference", pa.string()),
        pa.field("completion", pa.string(), nullable=False),
        pa.field("correct", pa.bool_()),
        pa.field("absence", pa.string()),
        pa.field("evidence", pa.string()),
        pa.field("reward", pa.float64()),
        pa.field("components", pa.map_(pa.string(), pa.float64()), nullable=False),
        pa.field("length", pa.int32(), nullable=False),
        pa.field("finish_reason", pa.string(), nullable=False),
    ]
)


class EvaluationError(Exception):
    """An evaluation can't be written or read; the message names the path."""


@dataclass(frozen=True)
class EvaluationRow:
    """One completion of one held-out problem; the fields are the columns of `SCHEMA`.

    `correct` is the verifier's verdict, None where there is none (then `absence` is the reason's name). `decoding` is "sampled" (at
    the training temperature) or "greedy". `evidence` is what the verifier compared. `length` counts completion tokens.
    """

    problem_id: str
    prompt: str
    completion: str
    correct: bool | None
    length: int
    finish_reason: str
    decoding: str = "sampled"
    reference: str | None = None
    absence: str | None = None
    evidence: str | None = None
    reward: float | None = None
    components: Mapping[str, float | None] = field(default_factory=dict)


def write_evaluation(path: Path, rows: Sequence[EvaluationRow]) -> Path:
    """Writes an evaluation, whole or not at all. Raises EvaluationError for rows that can't be stored and when the disk refuses."""
    seen: set[tuple[str, str]] = set()
    for row in rows:
        if (row.problem_id, row.decoding) in seen:
            raise EvaluationError(f"{path}: problem {row.problem_id!r} is there twice ({row.decoding})")
        seen.add((row.problem_id, row.decoding))
        for name, value in {"reward": row.reward, **row.components}.items():
            if value is not None and not math.isfinite(value):
                raise EvaluationError(f"{path}: problem {row.problem_id!r}: {name} is {value}; leave out a number that isn't finite")
    arrays = []
    for column in SCHEMA:
        values = [getattr(row, column.name) for row in rows]
        try:
            arrays.append(pa.array([list(value.items()) if isinstance(value, Mapping) else value for value in values], type=column.type))
        except (pa.ArrowException, UnicodeEncodeError, OverflowError, TypeError, ValueError) as error:
            raise EvaluationError(f"{path}: column {column.name} can't be stored: {error}") from error
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_arrays(arrays, schema=SCHEMA), buffer, compression="zstd")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            file.write(memoryview(buffer.getvalue()))
    except OSError as error:
        raise EvaluationError(f"{path}: the evaluation could not be written: {error}") from error
    return path


def read_evaluation(path: Path) -> list[EvaluationRow]:
    """The rows of an evaluation in the order they were written. Raises EvaluationError where the file is missing or isn't one."""
    try:
        with pq.ParquetFile(path) as file:
            if not file.schema_arrow.equals(SCHEMA):
                raise EvaluationError(f"{path}: not an evaluation of this version (its columns differ)")
            records = file.read().to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise EvaluationError(f"{path}: the evaluation could not be read: {error}") from error
    names = [column.name for column in fields(EvaluationRow)]
    return [EvaluationRow(**{name: record[name] for name in names} | {"components": dict(record["components"])}) for record in records]
