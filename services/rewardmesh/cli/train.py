"""`rewardmesh train` runs a recipe; `rewardmesh report` writes the report of a run again."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rewardmesh.cli.failure import USAGE, fail

if TYPE_CHECKING:
    from rich.console import Console

    from rewardmesh.cli.mesh_file import MeshFile
    from rewardmesh.cli.supervisor import Supervisor
    from rewardmesh.demo.embedded import EmbeddedOptions

INTERRUPTED = 130


def train(
    recipe_path: Annotated[Path, typer.Argument(metavar="RECIPE.YAML", exists=True, dir_okay=False)],
    resume: Annotated[
        bool, typer.Option("--resume/--fresh", help="go on from the newest checkpoint, or insist on a new run folder")
    ] = True,
    policy: Annotated[str | None, typer.Option(help="Hugging Face model directory or hub name")] = None,
    steps: Annotated[int | None, typer.Option(min=1)] = None,
    seed: Annotated[int | None, typer.Option()] = None,
    run_dir: Annotated[Path | None, typer.Option(file_okay=False)] = None,
    mesh_path: Annotated[
        Path | None,
        typer.Option(
            "--mesh", exists=True, dir_okay=False, help="start this mesh for the run; ${services.NAME.address} in the recipe refers to it"
        ),
    ] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="change any field, such as algorithm.beta=0.2; may be repeated")
    ] = None,
    ready_seconds: Annotated[float, typer.Option(help="longest time until the mesh is ready")] = 300.0,
) -> None:
    """Train a policy by a recipe. Options override the recipe's fields.

    A recipe with `base: embedded` brings its own small models, problems and mesh.
    """
    from rich.console import Console

    from rewardmesh.cli.supervisor import MeshFailed
    from rewardmesh.demo.parallel import JobFailed
    from rewardmesh.serving.config import ConfigError
    from rewardmesh.trainer.checkpoint import CheckpointError
    from rewardmesh.trainer.history import HistoryError
    from rewardmesh.trainer.ledger import LedgerError
    from rewardmesh.trainer.mesh import MeshUnavailable

    overrides = {"policy": policy, "steps": steps, "seed": seed, "run_dir": None if run_dir is None else str(run_dir)}
    console = Console()
    try:
        asyncio.run(
            _train(
                console,
                recipe_path,
                [*(changes or []), *(f"{key}={json.dumps(value)}" for key, value in overrides.items() if value is not None)],
                resume,
                mesh_path,
                ready_seconds,
            )
        )
    except ConfigError as error:
        fail(error, USAGE)
    except (MeshFailed, JobFailed, CheckpointError, LedgerError, HistoryError, OSError) as error:
        fail(error)
    except MeshUnavailable as error:
        fail(f"{error}\nrun the same command again when the mesh is back: it goes on from the last checkpoint")
    except (asyncio.CancelledError, KeyboardInterrupt):
        fail("interrupted; run the same command again to go on from the last checkpoint", INTERRUPTED)


async def _train(
    console: Console, recipe_path: Path, changes: list[str], resume: bool, mesh_path: Path | None, ready_seconds: float
) -> None:
    from rewardmesh.cli.building import models_with_bars
    from rewardmesh.cli.mesh_file import MeshFile
    from rewardmesh.cli.references import substitute
    from rewardmesh.cli.training_display import TrainingDisplay
    from rewardmesh.serving.logs import configure_logging
    from rewardmesh.serving.tracing import configure_tracing
    from rewardmesh.trainer.loop import train as run_recipe
    from rewardmesh.trainer.recipe import Recipe
    from rewardmesh.trainer.recipe_file import read_recipe

    running = asyncio.current_task()
    assert running is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, running.cancel)
    document = read_recipe(recipe_path, changes)
    embedded = document.get("base") is not None
    if embedded:
        document, options, embedded_mesh = _embedded(document, recipe_path)
        mesh_path = mesh_path or embedded_mesh
    mesh_file = MeshFile.load(mesh_path) if mesh_path else None
    nowhere = mesh_file.nowhere if mesh_file else {}
    Recipe.parse(substitute(document, nowhere, str(recipe_path)), str(recipe_path))  # mistakes show before anything is built or started
    if embedded:
        models_with_bars(console, options.models, options.models_seed, guide=options.guide)
    async with _mesh(console, mesh_file, ready_seconds) as mesh:
        recipe = Recipe.parse(substitute(document, mesh.places if mesh else {}, str(recipe_path)), str(recipe_path))
        provider = configure_tracing("trainer", "trainer", recipe.otlp_endpoint)
        try:
            with TrainingDisplay(console, recipe.steps) as display:
                configure_logging("trainer", level="warning")  # after the bar, whose stderr keeps lines apart
                work = run_recipe(recipe, resume=resume, on_step=display.on_step)
                summary = await (mesh.unless_failed(work) if mesh else work)
        finally:
            if provider:
                provider.shutdown()
    print_outcome(console, summary, recipe.run_dir)


def _embedded(document: dict[str, Any], recipe_path: Path) -> tuple[dict[str, Any], EmbeddedOptions, Path]:
    """Write what the embedded base brings; the recipe's document over it, how the models are built, and the mesh file."""
    from dataclasses import replace

    from rewardmesh.demo.build import model_paths
    from rewardmesh.demo.embedded import embedded_options, write_embedded

    options = embedded_options(document, str(recipe_path))
    models = model_paths(options.models)
    if "policy" in document:
        models = replace(models, policy=str(document.pop("policy")), guide=None)
    document, mesh_path = write_embedded(document, options, models, Path(str(document.get("run_dir", Path("runs") / recipe_path.stem))))
    return document, options, mesh_path


@asynccontextmanager
async def _mesh(console: Console, mesh_file: MeshFile | None, ready_seconds: float) -> AsyncIterator[Supervisor | None]:
    from rewardmesh.cli.supervisor import Supervisor

    if mesh_file is None:
        yield None
        return
    async with Supervisor(mesh_file) as mesh:
        with console.status("starting the mesh"):
            await mesh.wait_ready(ready_seconds)
        yield mesh


def print_outcome(console: Console, summary: dict[str, object], run_dir: Path) -> None:
    """The table a run ends with, and where its files are."""
    from rewardmesh.trainer.report import summary_table

    console.print(summary_table(summary))
    for name in ("report.html", "samples.parquet", "summary.json"):
        console.print(str(run_dir / name), highlight=False, markup=False, soft_wrap=True)


def report(run_dir: Annotated[Path, typer.Argument(exists=True, file_okay=False)]) -> None:
    """Write RUN_DIR/report.html from what is there and print its path."""
    from rewardmesh.trainer.report import write_report

    try:
        typer.echo(write_report(run_dir))
    except OSError as error:
        fail(error)
