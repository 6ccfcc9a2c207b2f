"""What every benchmark reports: the machine it ran on, bars that are met or not, and three files (JSON, Markdown, PNG)."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Bar:
    """A figure and the least value it must have, or the greatest it may have."""

    name: str
    value: float
    unit: str
    bar: float
    met: bool
    sign: str = "≥"

    @classmethod
    def at_least(cls, name: str, value: float, unit: str, bar: float) -> Bar:
        """A figure that must reach `bar`."""
        return cls(name, value, unit, bar, value >= bar)

    @classmethod
    def at_most(cls, name: str, value: float, unit: str, bar: float) -> Bar:
        """A figure that must not exceed `bar`."""
        return cls(name, value, unit, bar, value <= bar, "≤")

    def record(self) -> dict[str, Any]:
        """As reports keep it: name, value, unit, bar, met."""
        return {"name": self.name, "value": self.value, "unit": self.unit, "bar": self.bar, "met": self.met}

    def row(self) -> list[str]:
        """As a table shows it: name, value, wanted, met."""
        unit = f" {self.unit}" if self.unit else ""
        value = f"{self.value:,.0f}" if abs(self.value) >= 1000 else f"{self.value:.3g}"
        return [self.name, f"{value}{unit}", f"{self.sign} {self.bar:,g}{unit}", "yes" if self.met else "**no**"]


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
    document = {**results, "bars": [bar.record() for bar in bars]}
    (folder / f"{name}.json").write_text(json.dumps(document, indent=2) + "\n")
    figure.savefig(folder / f"{name}.png", dpi=144, bbox_inches="tight")
    lines = [
        f"# {title}",
        "",
        notes,
        "",
        *markdown(table),
        "",
        f"![{title}]({name}.png)",
        "",
        *markdown(Table(("bar", "value", "wanted", "met"), [bar.row() for bar in bars])),
        "",
        machine_line(results["machine"]),
        "",
    ]
    (folder / f"{name}.md").write_text("\n".join(lines))
    return folder / f"{name}.md"


def machine_line(machine: Mapping[str, Any]) -> str:
    """A sentence about what `describe_machine` found."""
    versions = ", ".join(f"{key} {value}" for key, value in machine["versions"].items())
    return (
        f"Machine: {machine['processor']}, {machine['usable_cores']} cores, {machine['threads']} threads, {machine['memory_gib']} GiB; "
        f"load before the run {machine['load_before']}. {machine['system']}, Python {machine['python']}, {versions}. {machine['time']}."
    )


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


def markdown(table: Table) -> list[str]:
    """Lines of a Markdown table."""
    lines = [table.columns, ["---"] * len(table.columns), *table.rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
