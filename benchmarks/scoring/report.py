"""From results to the Markdown report and the plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks._report import Table, machine_line, markdown
from benchmarks.scoring.bars import OURS, Results, floor_share, judged, race_passes
from benchmarks.scoring.statistics import rate, ratio, spread
from benchmarks.scoring.store import Store

TITLE = "Scoring: rewardmesh and what else could be used"
MODEL_TITLES = {"16m": "16M parameters", "100m": "100M parameters", "tiny": "tiny (to try the benchmark itself)"}


def write_report(store: Store) -> Path:
    """Judge the bars, save them with the results, and write the .md and .png beside; returns the Markdown file."""
    results = store.document
    verdicts = list(judged(results))
    store.put([bar.record() for _, bar in verdicts if bar], "bars")
    rows = []
    for wanted, bar in verdicts:
        sign = "≤" if wanted.most else "≥"
        beyond = "" if wanted.beyond is None else f"{sign} {wanted.beyond:,g}"
        rows.append([*(bar.row() if bar else (wanted.name, "not measured", f"{sign} {wanted.bar:,g}", "")), beyond, wanted.detail(results)])
    lines = [
        f"# {TITLE}",
        "",
        _notes(results),
        "",
        *markdown(Table(("bar", "figure", "wanted", "met", "beyond", "items/s of each"), rows)),
        "",
    ]
    for model, races in results.get("races", {}).items():
        lines += [f"## Workloads A, B, C: {MODEL_TITLES.get(model, model)}", ""]
        for workload, race in races.items():
            lines += [
                f"**{workload}**: {race['title']} a round, {race['source']}. {_tokens(race)}",
                "",
                *markdown(_race_table(results, model, workload)),
                "",
            ]
    if figure := _figure(results):
        figure.savefig(store.path.with_suffix(".png"), dpi=144, bbox_inches="tight")
        lines += [f"![items a second]({store.path.with_suffix('.png').name})", ""]
    lines += [*_overload(results), *_others(results), *_calibration(results)]
    if "machine" in results:
        lines += [machine_line(results["machine"]), ""]
    path = store.path.with_suffix(".md")
    path.write_text("\n".join(lines))
    return path


def _notes(results: Results) -> str:
    setting = results.get("setting", {})
    text = (
        "Every contender is started by itself on the same model and scores the same items, 256 of them before it at any time; the order is "
        "reversed every other round. Figures are medians over rounds, ratios medians of the ratio in each round. Rounds have different "
        "items and servers start anew each round, so no cache carries over. rewardmesh gets text through gRPC and tokenises it; the others "
        "get token ids. rewardmesh's result cache is off. Each contender's settings were chosen by trying a few (below), and its scores "
        "agree with one-by-one transformers to 1e-3 where that is checked, or it is listed as failed."
    )
    if setting.get("data") == "generated":
        text += " **Generated text stands in for real text in this run.**"
    if setting.get("quick"):
        text += " **This is a quick run of a tiny model: its figures say nothing about speed.**"
    if versions := setting.get("peer_versions"):
        text += f" Peers: {', '.join(f'{name} {version}' for name, version in versions.items())}."
    return text


def _tokens(race: Mapping[str, Any]) -> str:
    return f"{race['tokens_read']:,} tokens in all, {race['tokens_computed']:,} when what a group shares is computed once."


def _race_table(results: Results, model: str, workload: str) -> Table:
    contenders = results["races"][model][workload]["contenders"]
    measured = race_passes(results, model, workload)
    rows = []
    for name, record in contenders.items():
        if name not in measured:
            reason = (record["failed"] or "not measured").splitlines()[0]
            rows.append([record["title"], f"failed: {reason}" if record["failed"] else reason, "", "", ""])
            continue
        passes = measured[name]
        low, high = spread(passes)
        times = f"{ratio(measured[OURS], passes):.2f}×" if OURS in measured and name != OURS else ""
        difference = "" if record["difference"] is None else f"{record['difference']:.1e}"
        rows.append([record["title"], f"{rate(passes):.1f}", f"{low:.1f} to {high:.1f} ({len(passes)})", times, difference])
    return Table(("contender", "items/s (median)", "rounds (number)", "rewardmesh is", "difference from one by one"), rows)


def _figure(results: Results) -> Figure | None:
    """One panel a model and workload, a bar a contender."""
    panels = [(model, workload) for model, races in results.get("races", {}).items() for workload in races]
    panels = [panel for panel in panels if race_passes(results, *panel)]
    if not panels:
        return None
    most = max(len(race_passes(results, *panel)) for panel in panels)
    figure = Figure(figsize=(4.6 * min(3, len(panels)), (0.4 * most + 1.3) * -(-len(panels) // 3)), layout="constrained")
    grid = figure.subplots(-(-len(panels) // 3), min(3, len(panels)), squeeze=False)
    for axes in grid.flat:
        axes.set_visible(False)
    for axes, (model, workload) in zip(grid.flat, panels, strict=False):
        axes.set_visible(True)
        measured = race_passes(results, model, workload)
        rates = {name: rate(passes) for name, passes in measured.items()}
        places = list(range(len(rates)))
        axes.barh(places, list(rates.values()), color=["#4878a8" if name in (OURS, "bare") else "#b8b8b8" for name in rates])
        axes.set_yticks(places, list(rates))
        axes.invert_yaxis()
        for place, value in zip(places, rates.values(), strict=True):
            axes.annotate(f"{value:.1f}", (value, place), xytext=(3, 0), textcoords="offset points", va="center", fontsize=8)
        axes.set_xlim(0, 1.18 * max(rates.values()))
        axes.set_title(f"{workload}, {MODEL_TITLES.get(model, model)}", fontsize=10)
        axes.set_xlabel("items a second")
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _overload(results: Results) -> list[str]:
    found = results.get("overload")
    if not found:
        return []
    rows = [
        [
            f"{load['load']:g}×",
            str(load["calls"]),
            f"{load['goodput_items_per_s']:.1f}",
            _percent(load["accepted_in_time"]),
            str(load["refused"]),
            str(load["late"]),
            str(load["failed"]),
            _milliseconds(load["answer_p50_s"]),
            _milliseconds(load["answer_p99_s"]),
            _milliseconds(load["refusal_p99_s"]),
        ]
        for load in found["loads"]
    ]
    columns = (
        "load",
        "calls",
        "goodput, items/s",
        "accepted in time",
        "refused",
        "late",
        "failed",
        "answers p50, ms",
        "p99, ms",
        "refusals p99, ms",
    )
    text = (
        f"Poisson arrivals of one question with its answers a call, {found['seconds']:g} s each, deadline {found['deadline_s']:g} s, "
        f"nothing retried. 1× is {found['capacity_calls_per_s']:.1f} calls a second, measured with 32 callers that wait for their answers."
    )
    return ["## Workload D: more than it can do", "", text, "", *markdown(Table(columns, rows)), ""]


def _others(results: Results) -> list[str]:
    lines = []
    if share := floor_share(results, "16m"):
        floor = results["floor"]
        whole = share * sum(floor["16m"]["round_flops_all_rows"]) / sum(floor["16m"]["round_flops"])
        lines.append(
            f"- Floor: {floor['matmul_flops_per_s'] / 1e9:.0f} GFLOP/s on one large fp32 product. Needed is what remains after sharing, of "
            f"the last layer only what the last tokens need; {share:.0%} of that throughput is reached ({whole:.0%} when all tokens of "
            "the last layer are counted)."
        )
    if found := results.get("gateway"):
        lines.append(f"- Gateway: {found['more_time']:+.1%} time over {len(found['pairs'])} pairs of passes.")
    if found := results.get("memory"):
        lines.append(
            f"- Log-probs of {found['tokens']:,} tokens × {found['vocabulary']:,}: {found['extra_gib']:.2f} GiB more at the peak, "
            f"{found['extra_with_entropy_gib']:.2f} with entropy; all logits would be {found['all_logits_gib']:.1f} GiB."
        )
    if found := results.get("single_flight"):
        lines.append(
            f"- {found['callers']} callers of one item: {found['tokens_computed']} tokens computed for all of them, "
            f"{found['tokens_read']} read by each."
        )
    for fault, found in results.get("replicas", {}).items():
        lines.append(
            f"- One of three replicas {fault}: {found['calls']} calls, {found['attempts']} attempts ({found['retries']} retries, "
            f"{found['hedges']} hedges), {found['failed']} failed, slowest answer {found['slowest_s']:.2f} s."
        )
    return ["## Further figures", "", *lines, ""] if lines else []


def _calibration(results: Results) -> list[str]:
    found = results.get("calibration")
    if not found:
        return []
    rows = []
    for name, tried in found.items():
        for entry in tried:
            settings = ", ".join(f"{key}={value or 'none'}" for key, value in entry["variant"].items()) or "as it is"
            rows.append([name, settings, f"{entry['items_per_s']:.1f}" if "items_per_s" in entry else "failed"])
    text = "Items a second on a few questions of workload A, 16M parameters; the first of each contender was used."
    return ["## Settings tried", "", text, "", *markdown(Table(("contender", "settings", "items/s"), rows)), ""]


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _milliseconds(value: float | None) -> str:
    return "" if value is None else f"{value * 1000:.0f}"


def summary(store: Store) -> Sequence[str]:
    """The Markdown report's lines, for the terminal."""
    return store.path.with_suffix(".md").read_text().splitlines()
