"""The figures of the runs: gain of the held-out reward by recipe, mean and spread over seeds; JSON, Markdown and a plot."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks._report import Bar, Table, write_results
from benchmarks.recipes.runs import Run

NOTES = """\
Every recipe of `recipes/` on the embedded base: the demo's policy, problems, reward program and services. `reward` is the mean over the
held-out problems of what the recipe's own program gives one sampled answer, before and after training, both answers to a problem
evaluated as one group (so that the judge compares just these two); `right` is the share that the verifier calls right. Mean and
population standard deviation over seeds, which change the problems and the sampling; the models are the same. Rows of recipes
that a run leaves out are those of an earlier one."""


def write_report(folder: Path, runs: Sequence[Run], machine: dict[str, Any]) -> Path:
    """Write recipes.{json,md,png}: the runs that are finished, and the rows of other recipes that are there. Returns the Markdown file."""
    rows = _with_earlier(figures(runs), folder / "recipes.json")
    bars = [Bar.at_least(f"{row['recipe']}: reward gained, worst seed", min(row["gains"]), "", 0.0) for row in rows]
    table = Table(
        ("recipe", "method", "reward before", "after", "gain", "right before", "after", "KL (nats)", "s a step"),
        [
            [
                f"`{row['recipe']}`",
                row["title"],
                _spread(row["reward_before"]),
                _spread(row["reward_after"]),
                _spread(row["gains"], "+"),
                _percent(row["right_before"]),
                _percent(row["right_after"]),
                _spread(row["kl"]),
                f"{statistics.fmean(row['seconds_per_step']):.1f}",
            ]
            for row in rows
        ],
    )
    results = {"machine": machine, "bars": bars, "recipes": rows}
    return write_results(folder, "recipes", results, "Recipes on the embedded base", NOTES, table, _figure(rows))


def figures(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """One row a recipe, in the order of `runs`; lists have an entry a seed."""
    rows: dict[str, dict[str, Any]] = {}
    for run in runs:
        summary = run.finished()
        if summary is None:
            continue
        row = rows.setdefault(run.name, {"recipe": run.name, "title": run.title, "algorithm": summary["algorithm"], "seeds": []})
        row["seeds"].append(run.seed)
        for name, value in {
            "reward_before": summary["reward_before"],
            "reward_after": summary["reward_after"],
            "gains": summary["reward_after"] - summary["reward_before"],
            "right_before": summary["heldout_accuracy_before"],
            "right_after": summary["heldout_accuracy_after"],
            "kl": summary.get("heldout_kl"),
            "seconds_per_step": summary["seconds_per_step"],
            "samples_without_reward": summary["samples_without_reward"],
        }.items():
            row.setdefault(name, []).append(value)
    return list(rows.values())


def _with_earlier(rows: list[dict[str, Any]], file: Path) -> list[dict[str, Any]]:
    """Rows by recipe, those of an earlier report where this one has none."""
    earlier = json.loads(file.read_text())["recipes"] if file.exists() else []
    by_recipe = {row["recipe"]: row for row in [*earlier, *rows]}
    return [by_recipe[name] for name in sorted(by_recipe)]


def _figure(rows: Sequence[dict[str, Any]]) -> Figure:
    figure = Figure(figsize=(8, 0.3 * len(rows) + 1.2))
    axes = figure.subplots()
    ordered = sorted(rows, key=lambda row: statistics.fmean(row["gains"]))
    for place, row in enumerate(ordered):
        axes.barh(place, statistics.fmean(row["gains"]), color="#4878a8")
        axes.plot(row["gains"], [place] * len(row["gains"]), "o", color="#222222", markersize=3)
    axes.set_yticks(range(len(ordered)), [row["recipe"] for row in ordered])
    axes.axvline(0, color="#222222", linewidth=0.8)
    axes.set_xlabel("gain of the held-out reward (bar: mean over seeds, dots: seeds)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(y=0.01)
    return figure


def _spread(values: Sequence[float | None], sign: str = "") -> str:
    known = [value for value in values if value is not None]
    return f"{statistics.fmean(known):{sign}.3f} ± {statistics.pstdev(known):.3f}" if known else "–"


def _percent(values: Sequence[float]) -> str:
    return f"{100 * statistics.fmean(values):.1f} %"
