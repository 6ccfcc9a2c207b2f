"""`rewardmesh demo`: small models built on the spot, every service as its own process, online DPO through the mesh, before and after.

Everything lies in one folder, so that each part can be run again by hand: the models, mesh.yaml, program.yaml and recipe.yaml.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rewardmesh.cli.failure import USAGE, fail
from rewardmesh.cli.train import train

if TYPE_CHECKING:
    from rich.console import Console

    from rewardmesh.demo.files import ModelPaths


def demo(
    run_dir: Annotated[Path, typer.Option(file_okay=False, help="folder for everything the demo makes")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="changes the models, the problems and the sampling")] = 0,
    policy: Annotated[str | None, typer.Option(help="Hugging Face model directory or hub name, instead of the one built here")] = None,
    reward: Annotated[str | None, typer.Option(help="the same for the reward model")] = None,
    judge: Annotated[str | None, typer.Option(help="the same for the judge; it then reads the built-in template")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="training steps")] = None,
) -> None:
    """Make a policy better with the whole mesh, on this machine, in a few minutes."""
    from dataclasses import replace

    from rich.console import Console

    from rewardmesh.demo.files import Settings, write_files
    from rewardmesh.demo.parallel import JobFailed

    console = Console()
    try:
        _start_afresh(run_dir)
        models = _models(console, run_dir / "models", seed, policy, reward, judge)
        settings = replace(Settings(), steps=steps) if steps else Settings()
        files = write_files(run_dir, models, seed, settings)
    except (JobFailed, OSError) as error:
        fail(error)
    except KeyboardInterrupt:
        fail("interrupted", 130)
    train(files.recipe, mesh_path=files.mesh)


def _start_afresh(run_dir: Path) -> None:
    """Remove what an earlier run of the demo left, but for its models, which are kept when they fit."""
    ours = (run_dir / "mesh.yaml").exists() or (run_dir / "models").exists()
    if run_dir.exists() and any(run_dir.iterdir()) and not ours:
        fail(f"--run-dir: {run_dir} holds something that is not a demo; name a new folder", USAGE)
    for entry in run_dir.iterdir() if run_dir.exists() else ():
        if entry.name != "models":
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def _models(console: Console, folder: Path, seed: int, policy: str | None, reward: str | None, judge: str | None) -> ModelPaths:
    """Paths of the three models; those that are not given are built, with a bar each."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from rewardmesh.demo.build import PARTS, Part, build_metrics, build_models
    from rewardmesh.demo.files import ModelPaths

    if policy and reward and judge:
        return ModelPaths(policy, reward, judge, None)
    columns = (
        TextColumn("{task.description:>14}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[loss]}"),
    )
    with Progress(*columns, console=console) as bars:
        tasks = {part: bars.add_task(part, total=None, start=False, loss="") for part in PARTS}

        def on_step(part: Part, step: int, total: int, loss: float) -> None:
            if step == 1:
                bars.start_task(tasks[part])
            bars.update(tasks[part], completed=step, total=total, loss=f"loss {loss:.3f}")

        built = build_models(folder, seed, progress=on_step)
    for part, metrics in build_metrics(folder).items():
        console.print(f"{part:>14}: " + ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in metrics.items()))
    return ModelPaths(policy or built.policy, reward or built.reward, judge or built.judge, None if judge else built.judge_template)
