"""Makes the judges of all parts, side by side in two processes, with a bar each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.judges import bias, injection
from benchmarks.judges.training import Recipe, is_trained, train
from rewardmesh.demo.build import BuildConfig, build_parts
from rewardmesh.demo.parallel import Job, run_parallel

DEMO = "demo"
"""The demo's own judge, which its own code builds."""

OnStep = Callable[[str, int, int, float], None]
"""Called with (judge, step, steps, loss)."""


def recipes(folder: Path) -> dict[str, Recipe]:
    """How each judge but the demo's is trained; writes the templates that they read."""
    obeying = [injection.recipe(marking, injection.write_template(folder / "templates", marking)) for marking in injection.MARKINGS]
    return {each.name: each for each in (*obeying, bias.recipe(biased=True), bias.recipe(biased=False))}


def train_with_bars(console: Console, folder: Path, needed: Sequence[str], known: Mapping[str, Recipe]) -> None:
    """Train those that are needed and not there.

    Raises:
        JobFailed: one could not be trained; with its traceback.
    """
    built = folder / "judge" / "built.json"
    missing = [name for name in needed if not (built.is_file() if name == DEMO else is_trained(folder, known[name]))]
    columns = (
        TextColumn("{task.description:>10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[loss]}"),
    )
    with Progress(*columns, console=console) as progress:
        tasks = {name: progress.add_task(name, total=None, start=False, loss="") for name in missing}

        def on_step(name: str, step: int, steps: int, loss: float) -> None:
            if step == 1:
                progress.start_task(tasks[name])
            progress.update(tasks[name], completed=step, total=steps, loss=f"loss {loss:.3f}")

        shares = shared_out({name: _effort(name, known) for name in missing})
        jobs: list[Job] = [(train_all, (folder, share)) for share in shares if share]
        run_parallel(jobs, on_step)


def shared_out(efforts: Mapping[str, float], processes: int = 2) -> list[list[str]]:
    """Names for each process: the longest first, each to the process with the least to do."""
    shares: list[list[str]] = [[] for _ in range(processes)]
    for name in sorted(efforts, key=lambda name: -efforts[name]):
        min(shares, key=lambda share: sum(efforts[each] for each in share)).append(name)
    return shares


def _effort(name: str, known: Mapping[str, Recipe]) -> float:
    """Of training, about: our template is twice as long as the plain one."""
    if name == DEMO:
        return BuildConfig().judge.steps
    return known[name].steps * (2 if name.startswith("obeying") else 1)


def train_all(folder: Path, names: Sequence[str], on_step: OnStep) -> None:
    """Train judges one after the other, in a process of their own; by name, since recipes cannot be sent to it."""
    known = recipes(folder)
    for name in names:

        def on_fit(step: int, steps: int, loss: float, name: str = name) -> None:
            on_step(name, step, steps, loss)

        if name == DEMO:
            build_parts(folder, ["judge"], 0, BuildConfig(), None, lambda _, step, steps, loss: on_step(DEMO, step, steps, loss))
        else:
            train(folder, known[name], on_fit)
