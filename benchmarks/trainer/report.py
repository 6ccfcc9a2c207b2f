"""From races to bars, tables and the plot."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks._report import Bar, Table, bar_figure, write_results
from benchmarks.trainer.race import OURS, disagreement, speed_up

TITLE = "Training: the update phase against TRL 1.16"
NOTES = (
    "Log-probabilities, GRPO's loss, backward pass, clipping and AdamW; float32; nothing is generated. Everybody starts from the same "
    "weights and makes the same updates on the same batch, in turn, one at a time; seconds are medians over rounds, ratios medians of the "
    "ratio in each round. Memory is the greatest resident size during an update, model and optimiser included. Gradient: greatest relative "
    "difference from ours over all parameters. The peer runs twice: as its trainer pads, every sequence to the longest prompt and the "
    "longest completion of the generation batch, and with batches sorted and padded by hand, which its trainer does not do; each with its "
    "fastest size of micro-batch. The last rows are ours without a part of what makes it fast."
)


def write_report(out: Path, machine: Mapping[str, Any], races: Mapping[str, Mapping[str, Any]]) -> tuple[Path, list[Bar]]:
    """Write trainer.{json,md,png} into `out`; returns the Markdown file and the bars."""
    bars: list[Bar] = []
    rows, labels, values, spreads = [], [], [], []
    for model, race in races.items():
        records = race["contenders"]
        peers = (race["peer"], race["peer_by_hand"])
        bars += [
            Bar.at_least(f"{model}: update, times faster than TRL", speed_up(records, race["peer"], OURS)[0], "×", 2.0),
            Bar.at_most(f"{model}: gradient, relative difference", max(records[p]["gradient"]["difference"] for p in peers), "", 1e-4),
            Bar.at_most(f"{model}: loss and gradient norm, relative", max(disagreement(records, OURS, p) for p in peers), "", 1e-4),
        ]
        for name, record in records.items():
            seconds = [update["seconds"] for update in record["updates"]]
            middle, low, high = speed_up(records, name, OURS)
            rows.append(
                [
                    model,
                    record["title"],
                    f"{statistics.median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f})",
                    f"{middle:.2f}× ({low:.2f} to {high:.2f})",
                    f"{max(update['peak_mib'] for update in record['updates']):,.0f}",
                    f"{record['gradient']['difference']:.1e}",
                ]
            )
            labels.append(f"{model}: {record['title']}")
            values.append(statistics.median(seconds))
            spreads.append((min(seconds), max(seconds)))
    columns = ("model", "contender", "seconds an update", "ours is faster", "peak MiB", "gradient")
    figure: Figure = bar_figure(labels, values, spreads, "seconds an update")
    results = {"machine": machine, "bars": bars, "races": races}
    notes = " ".join([NOTES, *(_batch(model, race) for model, race in races.items())])
    return write_results(out, "trainer", results, TITLE, notes, Table(columns, rows), figure), bars


def _batch(model: str, race: Mapping[str, Any]) -> str:
    padded = race["contenders"][race["peer"]]["about"]["tokens_computed"]
    return (
        f"{model}: {race['parameters']:,} parameters, {race['questions']} questions ({race['source']}), "
        f"{race['tokens_read']:,} tokens, {padded:,} as TRL pads them."
    )
