"""Does online feedback beat offline feedback at the same price? `make bench-online`, or

    python -m benchmarks.online_vs_offline --seeds 0 1 2

Every arm trains the embedded policy by DPO on the same prompts with the same number of pairs, labelled by the judge alone (soft
probabilities, both orders). Online, the pairs are samples of the policy in training (Guo et al. 2024, arXiv 2402.04792); offline, they are
samples of the initial policy. Gold is the verifier, which no arm is trained on: the share of held-out problems with a right sampled answer,
against the KL divergence from the initial policy, both measured along the way on samples of the policy in training.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console

from benchmarks._report import RESULTS, Bar, Table, describe_machine, write_results
from benchmarks.recipes.display import run_with_bars
from benchmarks.recipes.runs import Run, prepared
from rewardmesh.cli.building import models_with_bars
from rewardmesh.demo.embedded import EmbeddedOptions
from rewardmesh.serving.config import ConfigError

PROGRAM = {
    "name": "judge-only",
    "signals": {"prefer": {"judge": "JUDGE", "mode": "compare", "against": "group"}},
    "reward": {"sum": [{"of": "prefer", "weight": 1.0}]},
    "on_absence": {"prefer": "wait"},
}
COMPLETIONS = 4
ONLINE: dict[str, Any] = {
    "base": "embedded",
    "embedded": {"program": PROGRAM},
    "algorithm": {"name": "online_dpo", "beta": 0.3, "label_source": "preferences"},
    "sampling": {"completions": COMPLETIONS},
    "evaluation": {"n": 300, "every": 8},
    "steps": 48,
}
INITIAL = {"samplers": [{"name": "opponent", "source": "reference", "n": COMPLETIONS}]}
ARMS: dict[str, dict[str, Any]] = {
    "online": ONLINE,
    "offline": {**ONLINE, **INITIAL},
    "offline-3-passes": {**ONLINE, **INITIAL, "algorithm": {**ONLINE["algorithm"], "epochs": 3}},
}
TITLES = {"online": "online", "offline": "offline, one pass", "offline-3-passes": "offline, three passes over each batch"}
COLOURS = {"online": "#b4464b", "offline": "#4878a8", "offline-3-passes": "#8aa8c8"}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=Path("runs/online_vs_offline"), help="keeps the runs; ended ones are not repeated")
    parser.add_argument("--results", type=Path, default=RESULTS, help="gets online_vs_offline.json, .md and .png")
    options = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    console = Console()
    machine = describe_machine(os.cpu_count() or 1)
    try:
        models = models_with_bars(console, EmbeddedOptions().models, 0)
        runs = [prepared(arm, document, seed, models, options.folder) for seed in options.seeds for arm, document in ARMS.items()]
        run_with_bars(console, runs, options.folder)
    except ConfigError as error:
        sys.exit(str(error))
    path = write_report(options.results, runs, machine)
    console.print(path.read_text(), markup=False, highlight=False, soft_wrap=True)


def curve(run: Run) -> list[dict[str, float]]:
    """Gold and KL along a run: {step, gold, kl}, the initial policy first."""
    summary = run.finished()
    assert summary is not None
    points = [{"step": 0.0, "gold": summary["heldout_accuracy_before"], "kl": 0.0}]
    for line in (run.folder / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        if "heldout_kl" in row:
            points.append({"step": float(row["step"]), "gold": row["accuracy"], "kl": row["heldout_kl"]})
    return points


def write_report(folder: Path, runs: Sequence[Run], machine: Mapping[str, Any]) -> Path:
    """Write online_vs_offline.{json,md,png}; returns the Markdown file."""
    curves = {arm: {run.seed: curve(run) for run in runs if run.name == arm} for arm in ARMS}
    last = {arm: {seed: points[-1] for seed, points in by_seed.items()} for arm, by_seed in curves.items()}
    bars = []
    for arm in list(ARMS)[1:]:
        gains = [last["online"][seed]["gold"] - last[arm][seed]["gold"] for seed in last[arm]]
        bars.append(Bar.at_least(f"gold of online less {arm}, mean over seeds", 100 * statistics.fmean(gains), "points", 0.0))
        bars.append(Bar.at_least(f"gold of online less {arm}, worst seed", 100 * min(gains), "points", 0.0))
    rows = []
    for arm, ends in last.items():
        before = statistics.fmean(points[0]["gold"] for points in curves[arm].values())
        gold, kl = [end["gold"] for end in ends.values()], [end["kl"] for end in ends.values()]
        after = f"{100 * statistics.fmean(gold):.1f} ± {100 * statistics.pstdev(gold):.1f} %"
        rows.append([TITLES[arm], f"{100 * before:.1f} %", after, f"{statistics.fmean(kl):.2f} ± {statistics.pstdev(kl):.2f}"])
    table = Table(("feedback", "gold before", "gold after", "KL (nats)"), rows)
    results = {"machine": machine, "bars": bars, "curves": curves}
    notes = (__doc__ or "").partition("\n\n")[2].partition("\n\n")[2]
    return write_results(folder, "online_vs_offline", results, "Online against offline feedback", notes.strip(), table, _figure(curves))


def _figure(curves: Mapping[str, Mapping[int, Sequence[Mapping[str, float]]]]) -> Figure:
    figure = Figure(figsize=(10, 4))
    by_kl, by_step = figure.subplots(1, 2, sharey=True)
    for arm, by_seed in curves.items():
        for points in by_seed.values():
            by_kl.plot([p["kl"] for p in points], [100 * p["gold"] for p in points], "o-", color=COLOURS[arm], alpha=0.45, markersize=3)
        steps = [p["step"] for p in next(iter(by_seed.values()))]
        golds = [[100 * points[i]["gold"] for points in by_seed.values()] for i in range(len(steps))]
        by_step.plot(steps, [statistics.fmean(g) for g in golds], "o-", color=COLOURS[arm], label=TITLES[arm], markersize=3)
        by_step.fill_between(steps, [min(g) for g in golds], [max(g) for g in golds], color=COLOURS[arm], alpha=0.15)
    by_kl.set_xscale("symlog", linthresh=2)
    by_kl.set_xlim(left=-0.1)
    by_kl.set_xticks([0, 1, 2, 5, 10, 20], ["0", "1", "2", "5", "10", "20"])
    by_kl.set_xlabel("KL from the initial policy (nats an answer), one line a seed")
    by_kl.set_ylabel("gold: right answers (%)")
    by_step.set_xlabel("step (mean and range over seeds)")
    by_step.legend(frameon=False)
    for axes in (by_kl, by_step):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


if __name__ == "__main__":
    main()
