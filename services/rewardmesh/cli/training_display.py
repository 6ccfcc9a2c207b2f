"""A training run in the terminal: a bar with the figures of the last step, or one line a step where there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_FIGURES = (
    ("reward_mean", "reward", "{:.3f}"),
    ("accuracy", "accuracy", "{:.1%}"),
    ("accuracy_greedy", "greedy", "{:.1%}"),
    ("kl", "KL", "{:.3f}"),
    ("seconds_total", "s/step", "{:.1f}"),
    ("reward_wait_fraction", "waiting", "{:.0%}"),
    ("reward_absent", "absent", "{:.0f}"),
)


class TrainingDisplay:
    """Shows steps as they end; a context manager whose `on_step` the training loop calls."""

    def __init__(self, console: Console, steps: int) -> None:
        self._console = console
        self._steps = steps
        columns = (
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
        )
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._progress.add_task("", total=steps, figures="evaluating")
        self._began = time.monotonic()

    def __enter__(self) -> TrainingDisplay:
        self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._progress.stop()

    def on_step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show a finished step; step 0 is the evaluation before training."""
        text = figures(metrics)
        self._progress.update(self._task, completed=step, figures=text if step < self._steps else f"{text} evaluating")
        if not self._console.is_terminal:
            seconds = time.monotonic() - self._began
            self._console.print(f"[{seconds:.0f} s] step {step}/{self._steps} {text}", highlight=False, markup=False, soft_wrap=True)


def figures(metrics: Mapping[str, float]) -> str:
    """The figures worth a glance, components of the reward included; counts that are zero are left out."""
    shown = [
        f"{label} {form.format(metrics[key])}"
        for key, label, form in _FIGURES
        if key in metrics and not (key == "reward_absent" and not metrics[key])
    ]
    shown += [f"{key.removeprefix('component/')} {value:.2f}" for key, value in metrics.items() if key.startswith("component/")]
    return " ".join(shown)
