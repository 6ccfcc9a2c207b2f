"""Train every recipe on the embedded base with several seeds and report what each gains.

    python -m benchmarks.recipes                          # all recipes, seeds 0 1 2
    python -m benchmarks.recipes dapo kto --seeds 0       # some
    python -m benchmarks.recipes kto --set algorithm.beta=0.2 --results /tmp/try

Runs that have ended are kept in --folder and not repeated, so an interrupted command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from rich.console import Console

from benchmarks._report import RESULTS, describe_machine
from benchmarks.recipes.display import run_with_bars
from benchmarks.recipes.report import write_report
from benchmarks.recipes.runs import plan
from rewardmesh.cli.building import models_with_bars
from rewardmesh.demo.embedded import EmbeddedOptions, embedded_options
from rewardmesh.serving.config import ConfigError
from rewardmesh.trainer.recipe_file import read_recipe

RECIPES = Path(__file__).parents[2] / "recipes"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", help="recipes, without .yaml; all when none is named")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--set", dest="changes", action="append", default=[], metavar="PATH=VALUE", help="change a field of every recipe")
    parser.add_argument("--folder", type=Path, default=Path("runs/recipes"), help="keeps the runs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="gets recipes.json, .md and .png")
    options = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    console = Console()
    paths = [RECIPES / f"{name}.yaml" for name in options.names] or sorted(RECIPES.glob("*.yaml"))
    machine = describe_machine(os.cpu_count() or 1)
    try:
        guide = any(embedded_options(read_recipe(path, options.changes), path.stem).guide for path in paths)
        models = models_with_bars(console, EmbeddedOptions().models, 0, guide=guide)
        runs = plan(paths, options.seeds, models, options.folder, options.changes)
        run_with_bars(console, runs, options.folder)
    except ConfigError as error:
        sys.exit(str(error))
    path = write_report(options.results, runs, machine)
    console.print(path.read_text(), markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
