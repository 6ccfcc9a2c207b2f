"""From results to bars, the table and the plot."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks._report import Bar, Table, write_results

TITLE = "Verifiers"
BLUE, ORANGE, GREY = "#4878a8", "#d1793b", "#b0b0b0"
Results = Mapping[str, Any]

NOTES = (
    "Everything goes through gRPC on loopback, server and client a process each, workers one a core. Precision: of what passed, the share "
    "that is right; recall: of what is right, the share that passed; an absence is neither. Formulas are new to the workers in every "
    "round, while the real answers come again, as in a group that shares its reference."
)


def write_report(out: Path, machine: Results, results: Results) -> tuple[Path, list[Bar]]:
    """Write verifiers.{json,md,png} into `out`; returns the Markdown file and the bars."""
    bars = list(_bars(results))
    rows = [*_math_rows(results), *_hang_rows(results), *_code_rows(results), *_attack_rows(results)]
    table = Table(("measured", "figure", "how"), rows)
    document = {"machine": machine, "bars": bars, **results}
    return write_results(out, "verifiers", document, TITLE, f"{NOTES} Answers: {results['source']}.", table, _figure(results)), bars


def _bars(results: Results) -> Sequence[Bar]:
    bars = []
    if math := results.get("math"):
        unexplained = [one for one in math["disagreements"] if one["explanation"] is None]
        slowest = min(one["items_per_s"] for one in math["throughput"].values())
        bars += [
            Bar.at_least("math: agreement with labels", 100 * math["agreement"]["share"], "%", 99.5),
            Bar.at_most("math: disagreements without an explanation", len(unexplained), "", 0),
            Bar.at_least("math: throughput, slower way to call", slowest, "items/s", 1000),
        ]
    if hang := results.get("hang"):
        bars += [
            Bar.at_least("hanging answers that were stopped", hang["hung"], "", 1),
            Bar.at_most("hanging answers: others without their right verdict", hang["harmless_lost"], "", 0),
            Bar.at_most("hanging answers: time taken, of the limit", hang["longest_hostile_s"] / hang["item_limit_s"], "×", 1.25),
            Bar.at_most("hanging answers: longest wait of another, beyond the usual", 1000 * hang["worst_extra_s"], "ms", 500),
        ]
    if code := results.get("code", {}).get("bubblewrap"):
        bars += [
            Bar.at_least("sandboxed Python (bubblewrap)", code["runs_per_s"], "runs/s", 25),
            Bar.at_most("sandboxed Python (bubblewrap): added to a run", code["overhead_ms"], "ms", 30),
        ]
    for kind, attacked in results.get("attacks", {}).items():
        bars += [
            Bar.at_least(f"attacks tried ({kind})", attacked["attacks"], "", 60),
            Bar.at_most(f"attacks that escaped or passed ({kind})", attacked["passed"] + attacked["left"], "", 0),
            Bar.at_most(f"attacks that got no verdict ({kind})", attacked["absent"], "", 0),
            Bar.at_most(f"honest programs beside and after them that were lost ({kind})", attacked["honest_lost"], "", 0),
        ]
    return bars


def _math_rows(results: Results) -> list[list[str]]:
    math = results.get("math")
    if math is None:
        return []
    labelled = {f"{name}, labelled file": one for name, one in math["labelled"].items()}
    sets = {
        "math, answers with labels": math["agreement"],
        "math, formulas": math["formulas"],
        "consensus of four, answers with labels": math["consensus"],
    }
    rows = [
        [
            name,
            f"precision {_share(one['precision'])}, recall {_share(one['recall'])}",
            f"{one['examples']} examples, {one['agreed']} agree, {one['absent']} absent"
            + (f", status as labelled {one['as_labelled']:.1%}" if "as_labelled" in one else ""),
        ]
        for name, one in {**sets, **labelled}.items()
    ]
    for one in math["disagreements"]:
        stated, reference = (" ".join(one[key].split())[-60:].replace("|", "\\|") for key in ("stated", "reference"))
        explanation = one["explanation"] or "**unexplained**"
        rows.append(
            [f"disagreement {one['id']}", f"label {one['label']}, verdict {one['verdict']}", f"{stated} / {reference}: {explanation}"]
        )
    for way, rate in math["throughput"].items():
        rows.append(
            [
                f"math, {way}",
                f"{rate['items_per_s']:,.0f} items/s",
                f"{rate['least']:,.0f} to {rate['most']:,.0f}, {rate['items']} items a round",
            ]
        )
    cold = [one["items_per_s"] for one in math["cold_formulas"]]
    absent = sum(one["absent"] for one in math["cold_formulas"])
    how = f"{min(cold):,.0f} to {max(cold):,.0f}, as one stream; {absent} in all rounds beyond the limit of one sample"
    rows.append(["math, new formulas", f"{statistics.median(cold):,.0f} items/s", how])
    return rows


def _hang_rows(results: Results) -> list[list[str]]:
    hang = results.get("hang")
    if hang is None:
        return []
    quiet, beside = hang["quiet_ms"], hang["beside_ms"]
    return [
        [
            "hostile answers",
            f"{len(hang['hostile'])}, of which {hang['hung']} reach the limit",
            f"limit {hang['item_limit_s']:g} s; longest {hang['longest_hostile_s']:.2f} s; the others are wrong answers and get FAIL",
        ],
        ["harmless answers beside", f"{hang['harmless']} sent, {hang['harmless_lost']} lost or wrong", "100 a second, one a message"],
        ["their wait, undisturbed", _wait(quiet), "median, 99th percentile, longest"],
        ["their wait, beside hostile ones", _wait(beside), "until the killed worker is replaced"],
    ]


def _code_rows(results: Results) -> list[list[str]]:
    return [
        [
            f"Python in {kind}",
            f"{one['runs_per_s']:.1f} runs/s, {one['overhead_ms']:.1f} ms added",
            f"{one['programs']} different programs; alone {one['alone_ms']:.1f} ms, bare interpreter {one['bare_ms']:.1f} ms",
        ]
        for kind, one in results.get("code", {}).items()
    ]


def _attack_rows(results: Results) -> list[list[str]]:
    return [
        [
            f"attacks on {kind}",
            f"{one['attacks']} tried, {one['passed']} passed, {one['left']} left traces",
            f"{one['absent']} without a verdict, {one['honest_lost']} honest programs lost, {one['skipped']} not tried (language missing)",
        ]
        for kind, one in results.get("attacks", {}).items()
    ]


def _figure(results: Results) -> Figure:
    figure = Figure(figsize=(12, 9.5), layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=(1, 1.6))
    _plot_agreement(figure.add_subplot(grid[0, 0]), results.get("math"))
    rates = grid[0, 1].subgridspec(2, 1)
    _plot_rates(figure.add_subplot(rates[0]), results.get("math"))
    _plot_code(figure.add_subplot(rates[1]), results.get("code"))
    _plot_hang(figure.add_subplot(grid[1, :]), results.get("hang"))
    return figure


def _plot_agreement(axes: Axes, math: Results | None) -> None:
    axes.set_title("precision and recall of PASS", loc="left", fontsize=10)
    if math is None:
        return _nothing(axes)
    sets = {
        "math: answers": math["agreement"],
        "math: formulas": math["formulas"],
        "consensus: answers": math["consensus"],
        **{f"{name}: file": one for name, one in math["labelled"].items()},
    }
    places = list(range(len(sets)))
    for offset, key, colour in ((-0.18, "precision", BLUE), (0.18, "recall", ORANGE)):
        values = [one[key] or 0.0 for one in sets.values()]
        axes.barh([place + offset for place in places], values, 0.34, color=colour, label=key)
        for place, value in zip(places, values, strict=True):
            axes.annotate(f"{value:.3g}", (value, place + offset), xytext=(3, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_yticks(places, [f"{name} ({one['examples']})" for name, one in sets.items()], fontsize=8)
    axes.set_xlim(0, 1.1)
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, fontsize=8, frameon=False)
    return _finish(axes)


def _plot_rates(axes: Axes, math: Results | None) -> None:
    axes.set_title("math: items a second (line: bar for answers)", loc="left", fontsize=10)
    if math is None:
        return _nothing(axes)
    rates = {f"answers, {way}": (one["items_per_s"], one["least"], one["most"]) for way, one in math["throughput"].items()}
    cold = [one["items_per_s"] for one in math["cold_formulas"]]
    rates["new formulas, stream"] = (statistics.median(cold), min(cold), max(cold))
    _bars_with_spread(axes, rates)
    axes.axvline(1000, color="#333333", linewidth=1, linestyle="--", zorder=0.5)
    return None


def _plot_code(axes: Axes, code: Results | None) -> None:
    axes.set_title("sandboxed Python: runs a second (line: bar for bubblewrap)", loc="left", fontsize=10)
    if not code:
        return _nothing(axes)
    _bars_with_spread(axes, {kind: (one["runs_per_s"],) * 3 for kind, one in code.items()})
    axes.axvline(25, color="#333333", linewidth=1, linestyle="--", zorder=0.5)
    return None


def _plot_hang(axes: Axes, hang: Results | None) -> None:
    axes.set_title("hostile answers: how long each took, and the longest wait of a harmless one beside it", loc="left", fontsize=10)
    if hang is None:
        return _nothing(axes)
    names = list(hang["seconds"])
    places = list(range(len(names)))
    axes.barh([place - 0.2 for place in places], [1000 * hang["seconds"][name] for name in names], 0.38, color=GREY, label="hostile answer")
    waits = [hang["beside_each_worst_ms"][name] for name in names]
    axes.barh([place + 0.2 for place in places], waits, 0.38, color=BLUE, label="longest wait of a harmless answer")
    axes.axvline(1000 * hang["item_limit_s"], color="#333333", linewidth=1, linestyle="--", label="limit of one sample")
    axes.set_yticks(places, names, fontsize=7)
    axes.set_xscale("log")
    axes.set_xlabel("milliseconds")
    axes.legend(loc="lower right", fontsize=8, framealpha=1)
    return _finish(axes)


def _bars_with_spread(axes: Axes, rates: Mapping[str, tuple[float, float, float]]) -> None:
    places = list(range(len(rates)))
    values = [value for value, _, _ in rates.values()]
    errors = [[value - least for value, least, _ in rates.values()], [most - value for value, _, most in rates.values()]]
    axes.barh(places, values, xerr=errors, color=BLUE, ecolor="#333333", capsize=3)
    for place, (value, _, most) in enumerate(rates.values()):
        text = axes.annotate(f"{value:,.0f}", (most, place), xytext=(6, 0), textcoords="offset points", va="center", fontsize=8)
        text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 1})
    axes.set_yticks(places, list(rates), fontsize=8)
    axes.set_xlim(0, 1.15 * max(most for _, _, most in rates.values()))
    _finish(axes)


def _finish(axes: Axes) -> None:
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)


def _nothing(axes: Axes) -> None:
    axes.set_axis_off()
    axes.text(0, 0.5, "not measured", transform=axes.transAxes)


def _share(value: float | None) -> str:
    return "none" if value is None else f"{value:.2%}"


def _wait(milliseconds: Results) -> str:
    return " / ".join(f"{milliseconds[key]:.1f}" for key in ("median", "p99", "worst")) + " ms"
