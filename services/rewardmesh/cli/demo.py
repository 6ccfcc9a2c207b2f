"""`rewardmesh demo`: small models built on the spot, every service as its own process, online DPO through the mesh, before and after.

Everything lies in one folder, so that each part can be run again by hand: the models, mesh.yaml, program.yaml and recipe.yaml.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from rewardmesh.cli.failure import USAGE, fail
from rewardmesh.cli.train import train


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

    from rewardmesh.cli.building import models_with_bars
    from rewardmesh.demo.files import Settings, write_files
    from rewardmesh.demo.parallel import JobFailed

    console = Console()
    try:
        _start_afresh(run_dir)
        models = models_with_bars(console, run_dir / "models", seed, policy, reward, judge)
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
