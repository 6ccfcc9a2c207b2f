"""What a run shows: a bar with the step it is at, and a line for each figure."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar


class Progress:
    """Counts steps; `total` of them are expected, and more are added when they are known."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._bar = Bar(*columns, console=Console(stderr=True))
        self._task = self._bar.add_task("scoring", total=0)
        self._total = 0

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.stop()

    def expect(self, steps: int) -> None:
        """So many more steps will come."""
        self._total += steps
        self._bar.update(self._task, total=self._total)

    @contextmanager
    def step(self, text: str) -> Iterator[None]:
        """A step that begins and ends; it counts as done even when it fails."""
        self._bar.update(self._task, description=text)
        try:
            yield
        finally:
            self._bar.advance(self._task)

    def say(self, text: str) -> None:
        """A line above the bar."""
        self._bar.console.print(text, markup=False, highlight=False)
