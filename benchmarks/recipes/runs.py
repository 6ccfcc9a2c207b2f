"""Runs of recipes over one mesh: the services start once, every run trains against them from the initial policy.

A run that has ended is not run again: `summary.json` in its folder holds the recipe it belongs to.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rewardmesh.cli.mesh_file import MeshFile
from rewardmesh.cli.references import substitute
from rewardmesh.cli.supervisor import Supervisor
from rewardmesh.demo.embedded import embedded_options, write_embedded
from rewardmesh.demo.files import ModelPaths
from rewardmesh.trainer.loop import train
from rewardmesh.trainer.recipe import Recipe
from rewardmesh.trainer.recipe_file import read_recipe

FINISHED = "finished.json"


@dataclass(frozen=True)
class Run:
    """One recipe with one seed.

    Attributes:
        document: the recipe over the embedded base, references to services still in it.
        mesh: the services it wants, as a mesh file says them, without the gateway's programs.
    """

    name: str
    seed: int
    title: str
    document: dict[str, Any]
    mesh: dict[str, Any]
    folder: Path

    def finished(self) -> dict[str, Any] | None:
        """The summary of an earlier run of the same recipe; None when there is none."""
        path = self.folder / FINISHED
        if not path.is_file():
            return None
        found: dict[str, Any] = json.loads(path.read_text())
        return found["summary"] if found["document"] == _plain(self.document) else None

    def finish(self, summary: dict[str, object]) -> None:
        """Keep the summary; the checkpoints and weights are not needed any more."""
        for name in ("checkpoints", "weights"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        (self.folder / FINISHED).write_text(json.dumps({"document": _plain(self.document), "summary": _plain(summary)}))


def plan(paths: Sequence[Path], seeds: Sequence[int], models: ModelPaths, folder: Path, changes: Sequence[str]) -> list[Run]:
    """Runs of every recipe with every seed, one seed after the other, so that an early end has covered all recipes."""
    return [prepared(path.stem, read_recipe(path, changes), seed, models, folder) for seed in seeds for path in paths]


def prepared(name: str, document: Mapping[str, Any], seed: int, models: ModelPaths, folder: Path) -> Run:
    """One recipe document with one seed, its files written; ConfigError names `name` and the field."""
    options = embedded_options(document, name)
    run_folder = folder / f"{name}-{seed}"
    resolved, mesh_path = write_embedded({**document, "seed": seed}, options, models, run_folder)
    resolved["metrics_port"] = None
    title = document["about"]["title"] if "about" in document else name
    return Run(name, seed, title, resolved, yaml.safe_load(mesh_path.read_text()), run_folder)


async def run_all(runs: Sequence[Run], folder: Path, on_step: Callable[[Run, int, float], None], on_end: Callable[[Run], None]) -> None:
    """Train what is not finished; runs that want the same services share a mesh."""
    waiting = [run for run in runs if run.finished() is None]
    while waiting:
        services = _without_programs(waiting[0])
        together = [run for run in waiting if _without_programs(run) == services]
        waiting = [run for run in waiting if run not in together]
        async with Supervisor(MeshFile.parse(_shared(together, folder))) as mesh:
            await mesh.wait_ready(300)
            for run in together:
                recipe = Recipe.parse(substitute(run.document, mesh.places, run.name), run.name)
                for name in ("ledger", "checkpoints", "metrics.jsonl", "tensorboard", "weights"):  # of a run that was cut short
                    path = run.folder / name
                    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

                def step(number: int, metrics: Any, run: Run = run) -> None:
                    on_step(run, number, float(metrics.get("reward_mean", float("nan"))))

                run.finish(await mesh.unless_failed(train(recipe, resume=False, on_step=step)))
                on_end(run)


def _shared(runs: Sequence[Run], folder: Path) -> dict[str, Any]:
    """The mesh of several runs: the services of the first, a gateway with the programs of all."""
    programs: dict[str, str] = {}
    for run in runs:
        for path in run.mesh["services"]["gateway"]["programs"]:
            text = Path(path).read_text()
            name = yaml.safe_load(text)["name"]
            if name in programs and Path(programs[name]).read_text() != text:
                raise ValueError(f"{run.name}: two programs are called {name!r} but differ; give one another name")
            programs.setdefault(name, path)
    services = {**runs[0].mesh["services"]}
    services["gateway"] = {**services["gateway"], "programs": list(programs.values())}
    return {"log_dir": str(folder / "logs"), "services": services}


def _without_programs(run: Run) -> dict[str, Any]:
    services = {**run.mesh["services"]}
    services["gateway"] = {key: value for key, value in services["gateway"].items() if key != "programs"}
    return services


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))
