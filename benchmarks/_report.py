"""What every benchmark reports: the machine it ran on, bars that are met or not, and three files (JSON, Markdown, PNG)."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Bar:
    """A figure and the least value it must have."""

    name: str
    value: float
    unit: str
    bar: float
    met: bool

    @classmethod
    def at_least(cls, name: str, value: float, unit: str, bar: float) -> Bar:
        """A figure that must reach `bar`."""
        return cls(name, value, unit, bar, value >= bar)


@dataclass(frozen=True)
class Table:
    """Rows for the Markdown report, and the column drawn as bars."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def describe_machine(threads: int) -> dict[str, Any]:
    """Processor, memory, versions and the threads that were used."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)),
        "threads": threads,
        "memory_gib": round(memory / 2**30, 1),
        "load_before": round(os.getloadavg()[0], 2),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in ("torch", "transformers", "grpcio", "rewardmesh")},
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def write_results(folder: Path, name: str, results: Mapping[str, Any], title: str, notes: str, table: Table, figure: Figure) -> Path:
    """Write NAME.json, NAME.md and NAME.png; returns the Markdown file. `results` holds "machine" and "bars"."""
    folder.mkdir(parents=True, exist_ok=True)
    bars: Sequence[Bar] = results["bars"]
    document = {**results, "bars": [asdict(bar) for bar in bars]}
    (folder / f"{name}.json").write_text(json.dumps(document, indent=2) + "\n")
    figure.savefig(folder / f"{name}.png", dpi=144, bbox_inches="tight")
    machine = results["machine"]
    versions = ", ".join(f"{key} {value}" for key, value in machine["versions"].items())
    lines = [
        f"# {title}",
        "",
        notes,
        "",
        *_markdown(table),
        "",
        f"![{title}]({name}.png)",
        "",
        *_markdown(Table(("bar", "value", "wanted", "met"), [_bar_row(bar) for bar in bars])),
        "",
        f"Machine: {machine['processor']}, {machine['usable_cores']} cores, {machine['threads']} threads, {machine['memory_gib']} GiB; "
        f"load before the run {machine['load_before']}. {machine['system']}, Python {machine['python']}, {versions}. {machine['time']}.",
        "",
    ]
    (folder / f"{name}.md").write_text("\n".join(lines))
    return folder / f"{name}.md"


def bar_figure(labels: Sequence[str], values: Sequence[float], spreads: Sequence[tuple[float, float]], xlabel: str) -> Figure:
    """Horizontal bars, first one on top; `spreads` are (least, greatest) of the rounds."""
    figure = Figure(figsize=(8, 0.55 * len(labels) + 1.2))
    axes = figure.subplots()
    errors = [
        [v - low for v, (low, _) in zip(values, spreads, strict=True)],
        [high - v for v, (_, high) in zip(values, spreads, strict=True)],
    ]
    places = list(range(len(labels)))
    axes.barh(places, values, xerr=errors, color="#4878a8", ecolor="#333333", capsize=3)
    axes.set_yticks(places, labels)
    axes.invert_yaxis()
    axes.set_xlabel(xlabel)
    for place, value, (_, high) in zip(places, values, spreads, strict=True):
        axes.annotate(f"{value:.1f}", (high, place), xytext=(6, 0), textcoords="offset points", va="center")
    axes.set_xlim(0, 1.12 * max(high for _, high in spreads))
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _markdown(table: Table) -> list[str]:
    lines = [table.columns, ["---"] * len(table.columns), *table.rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def _bar_row(bar: Bar) -> list[str]:
    return [bar.name, f"{bar.value:.2f} {bar.unit}", f"≥ {bar.bar:g} {bar.unit}", "yes" if bar.met else "**no**"]


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
