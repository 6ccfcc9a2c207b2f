"""The metrics of a run: `metrics.jsonl`, one JSON object per step, appended as the step ends.

A process killed in the middle of a line leaves a torn last line; a line only counts once its newline is there. JSON has no NaN:
numbers that aren't finite are written as the strings "NaN", "Infinity" and "-Infinity", as protobuf's JSON does, and read back.
"""

import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from rewardmesh.trainer.atomic import atomic_file

_SPECIAL = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class HistoryError(Exception):
    """The metrics file can't be written or read; the message names the path and the line."""


class History:
    """Append-only metrics, ascending in `step`. One process writes; any number may read at the same time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._last_step: int | None = None
        self._repaired = False

    def append(self, step: int, metrics: Mapping[str, object]) -> None:
        """Adds a step. Raises HistoryError when the step isn't after the last one (resume with `truncate_after`) or the disk refuses."""
        if not self._repaired:
            self._keep(lambda _: True)
        if self._last_step is not None and step <= self._last_step:
            raise HistoryError(f"{self.path}: step {step} is not after step {self._last_step}, which is already there")
        try:
            line = json.dumps({"step": step, **{key: _encode(value) for key, value in metrics.items() if key != "step"}}, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise HistoryError(f"{self.path}: the metrics of step {step} are not JSON: {error}") from error
        try:
            with self.path.open("ab") as file:
                file.write(line.encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            self._repaired = False  # part of the line may be there
            raise HistoryError(f"{self.path}: the metrics of step {step} could not be written: {error}") from error
        self._last_step = step

    def truncate_after(self, step: int) -> None:
        """Removes every step after `step`, the last one of the checkpoint a run resumes from."""
        self._keep(lambda line_step: line_step <= step)

    def read(self) -> list[dict[str, object]]:
        """All complete lines in order; empty where there is no file. Raises HistoryError for a line in the middle that isn't JSON."""
        return [record for record, _ in self._lines()]

    def _lines(self) -> list[tuple[dict[str, object], bytes]]:
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise HistoryError(f"{self.path}: could not be read: {error}") from error
        lines = []
        for number, line in enumerate(content.split(b"\n")[:-1], start=1):
            try:
                record = json.loads(line)
            except ValueError as error:
                raise HistoryError(f"{self.path}, line {number}: not JSON: {error}") from error
            if not isinstance(record, dict) or type(record.get("step")) is not int:
                raise HistoryError(f"{self.path}, line {number}: not an object with a whole number as step")
            lines.append(({key: _decode(value) for key, value in record.items()}, line))
        return lines

    def _keep(self, wanted: Callable[[int], bool]) -> None:
        kept = [(step, line) for record, line in self._lines() if isinstance(step := record["step"], int) and wanted(step)]
        content = b"".join(line + b"\n" for _, line in kept)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if not self.path.exists() or self.path.read_bytes() != content:
                with atomic_file(self.path) as file:
                    file.write(content)
        except OSError as error:
            raise HistoryError(f"{self.path}: could not be written: {error}") from error
        self._last_step = kept[-1][0] if kept else None
        self._repaired = True


def _encode(value: object) -> object:
    if hasattr(value, "item"):  # a numpy or torch scalar
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _decode(value: object) -> object:
    return _SPECIAL.get(value, value) if isinstance(value, str) else value
