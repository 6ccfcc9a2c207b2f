"""Runs with a bar for all of them and one for the present one; a line for each that ends."""

from __future__ import annotations

import asyncio
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks.recipes.runs import Run, run_all


def run_with_bars(console: Console, runs: list[Run], folder: Path) -> None:
    """Train what is not finished. Raises ConfigError, MeshFailed, MeshUnavailable."""
    columns = (
        TextColumn("{task.description:>24}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as bars:
        done = sum(run.finished() is not None for run in runs)
        whole = bars.add_task("runs", total=len(runs), completed=done, note="")
        current = bars.add_task("", total=None, note="starting the mesh")

        def on_step(run: Run, step: int, reward: float) -> None:
            total = run.document["steps"]
            bars.update(current, description=f"{run.name} {run.seed}", completed=step, total=total, note=f"reward {reward:.3f}")

        def on_end(run: Run) -> None:
            summary = run.finished() or {}
            bars.advance(whole)
            bars.console.print(
                f"{run.name} seed {run.seed}: reward {summary['reward_before']:.3f} -> {summary['reward_after']:.3f}, "
                f"right {summary['heldout_accuracy_before']:.1%} -> {summary['heldout_accuracy_after']:.1%}",
                highlight=False,
            )

        asyncio.run(run_all(runs, folder, on_step, on_end))
