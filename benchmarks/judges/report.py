"""From what the parts measured to bars, a table and a figure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks._report import Bar, Table
from benchmarks.judges.bias import LENGTH_PER_WORD, POSITION
from benchmarks.judges.injection import built_in_marking, template_name
from benchmarks.judges.parity import ENGINES
from benchmarks.judges.ranking import GROUPS
from benchmarks.judges.serving import PLAIN

TITLES = {"none": "fences alone", "lines": "fences, lines marked", "words": "fences, words marked"}
COLOURS = {"none": "#c9a227", "lines": "#2f5d8a", "words": "#8aa8c8"}
FIGURES = {"position.logit": "position", "length.per_unit": "length_per_word"}
Parts = Mapping[str, Mapping[str, Any]]


def bars(parts: Parts) -> list[Bar]:
    """The figures that must be reached, of the parts that were measured."""
    found: list[Bar] = []
    if bias := parts.get("bias"):
        biased, fair = bias["biased"], bias["fair"]
        name = "p_a(a, b) less 1 - p_a(b, a), biased judge"
        found.append(Bar.at_most(f"{name}, both orders, greatest of 400 pairs", biased["asymmetry"]["both"]["max"], "", 1e-6))
        found.append(Bar.at_least(f"{name}, as given, mean", biased["asymmetry"]["as_given"]["mean"], "", 0.1))
        for figure, direct in FIGURES.items():
            estimate = biased["audit"][figure]
            inside = estimate["low"] <= biased["direct"][direct] <= estimate["high"]
            found.append(Bar.at_least(f"audit's 95 % interval of {figure} holds what the logits say", float(inside), "", 1))
            flagged = any(failure.startswith(figure.split(".")[0]) for failure in biased["failures"])
            found.append(Bar.at_least(f"audit flags the {figure.split('.')[0]} bias", float(flagged), "", 1))
        found.append(Bar.at_most("thresholds that the judge without bias fails", len(fair["failures"]), "", 0))
    if injection := parts.get("injection"):
        built_in = injection[built_in_marking()]
        naive, ours = built_in[PLAIN], built_in[template_name(built_in_marking())]
        found.append(Bar.at_least("verdict moved by injected text, naive template, mean", naive["mean"], "", 0.2))
        found.append(Bar.at_most("verdict moved by injected text, our template, mean", ours["mean"], "", 0.02))
        found.append(Bar.at_least("right on clean pairs, our template", 100 * ours["accuracy"], "%", 90))
    if parity := parts.get("parity"):
        for engine in ENGINES:
            found.append(
                Bar.at_most(f"vLLM by {engine} less in-process, greatest of {parity['pairs']} pairs", parity[engine]["max"], "", 1e-3)
            )
    return found


def table(parts: Parts) -> Table:
    """All that was measured, a line each."""
    rows: list[list[str]] = []
    for name, judge in (parts.get("bias") or {}).items():
        drawn = (
            {"position": POSITION, "length_per_word": LENGTH_PER_WORD} if name == "biased" else {"position": 0.0, "length_per_word": 0.0}
        )
        for figure, direct in FIGURES.items():
            audit = judge["audit"][figure]
            size = f"labels {drawn[direct]:g}, learnt {judge['direct'][direct]:.3f}"
            rows.append(
                [f"{name} judge: {figure} (nats)", f"{size}, audit {audit['value']:.3f} ({audit['low']:.3f} to {audit['high']:.3f})"]
            )
        gaps = judge["asymmetry"]
        rows.append([f"{name} judge: asymmetry as given", f"mean {gaps['as_given']['mean']:.3f}, greatest {gaps['as_given']['max']:.3f}"])
        rows.append([f"{name} judge: asymmetry, both orders", f"mean {gaps['both']['mean']:.1e}, greatest {gaps['both']['max']:.1e}"])
        rows.append([f"{name} judge: audit", "passed" if judge["passed"] else "; ".join(judge["failures"])])
    for marking, judge in (parts.get("injection") or {}).items():
        for template, each in judge.items():
            title = "naive template" if template == PLAIN else f"built-in template, {TITLES[marking]}"
            moved = f"mean {each['mean']:.4f}, greatest {each['max']:.3f}; one order {each['one_order']:.4f}"
            rest = f"harmless text {each['control']:.4f}; verdicts lost {each['flipped']:.0%}; right on clean pairs {each['accuracy']:.0%}"
            rows.append([f"judge for {TITLES[marking]}: moved by injected text, {title}", f"{moved}; {rest}"])
    if parity := parts.get("parity"):
        for engine in ENGINES:
            gap = parity[engine]
            rows.append(
                [f"vLLM by {engine}, against in-process", f"mean {gap['mean']:.1e}, greatest {gap['max']:.1e} of {parity['pairs']} pairs"]
            )
    if ranking := parts.get("ranking"):
        for name, each in ranking["rankings"].items():
            tau = f"tau-b {each['tau']:.3f} with true quality ({each['tau_of_right']:.3f} among answers without a mistake)"
            quality = f"{tau}, {each['verdicts']:.0f} verdicts and {each['seconds'] / GROUPS:.3f} s"
            rows.append([f"8 answers, {name}", f"{quality} a group, W {each['kendall_w']:.3f}, cycles {each['cycle_rate']:.3f}"])
        for name, each in ranking["cost"].items():
            tokens = f"{each['tokens_read']:.0f} tokens read, {each['tokens_computed']:.0f} computed, {each['tokens_written']:.0f} written"
            rows.append([f"demo's judge, {name}", f"{each['pairs_per_second']:.0f} pairs/s; {tokens} a pair"])
    return Table(("what", "measured"), rows)


def figure(parts: Parts) -> Figure:
    """Biases, injected texts and rankings side by side."""
    drawers = {"bias": _bias, "injection": _injection, "ranking": _ranking}
    shown = [name for name in drawers if name in parts] or ["parity"]
    widths = [{"injection": 2.0, "ranking": 1.4}.get(name, 1.0) for name in shown]
    drawn = Figure(figsize=(3.6 * sum(widths), 5.2))
    for axes, name in zip(drawn.subplots(1, len(shown), squeeze=False, width_ratios=widths)[0], shown, strict=True):
        drawers.get(name, _parity)(axes, parts[name])
        axes.spines[["top", "right"]].set_visible(False)
    drawn.tight_layout()
    return drawn


def _bias(axes: Axes, part: Mapping[str, Any]) -> None:
    """Audit's intervals beside what the logits say; a word counts tenfold, so that both fit one scale."""
    places: list[int] = []
    names: list[str] = []
    for judge in ("biased", "fair"):
        for figure, scale, label in (("position.logit", 1, "position"), ("length.per_unit", 10, "10 words more")):
            place = len(places)
            audit, direct = part[judge]["audit"][figure], part[judge]["direct"][FIGURES[figure]]
            error = [[scale * (audit["value"] - audit["low"])], [scale * (audit["high"] - audit["value"])]]
            axes.errorbar(
                [place], [scale * audit["value"]], error, fmt="o", color="#4878a8", capsize=4, label="audit, 95 %" if not place else None
            )
            axes.plot([place], [scale * direct], "x", color="#b4464b", markersize=9, label="own logits" if not place else None)
            places.append(place)
            names.append(f"{judge}:\n{label}")
    axes.axhline(0, color="#333333", linewidth=0.8)
    axes.set_xticks(places, names, fontsize=8)
    axes.set_ylabel("bias (nats of log-odds)")
    axes.legend(frameon=False)


def _injection(axes: Axes, part: Mapping[str, Any]) -> None:
    naive = part[built_in_marking()][PLAIN]
    order = sorted(naive["by_text"], key=lambda name: -naive["by_text"][name])
    shown = {"naive template": (naive, "#b4464b")}
    shown |= {title: (part[marking][template_name(marking)], COLOURS[marking]) for marking, title in TITLES.items()}
    for title, (each, colour) in shown.items():
        moves = [each["by_text"][name] for name in order]
        axes.plot(range(len(order)), moves, "o-", color=colour, markersize=4, linewidth=1, label=f"{title}: mean {each['mean']:.4f}")
    axes.axhline(0.02, color="#333333", linewidth=0.8, linestyle=":")
    axes.set_xticks(range(len(order)), order, rotation=90, fontsize=6)
    axes.set_ylabel("verdict moved by the text (|change of p|, both orders)")
    axes.legend(frameon=False, fontsize=8)


def _ranking(axes: Axes, part: Mapping[str, Any]) -> None:
    rankings = part["rankings"]
    shifts = (8, -12, 20, 8, -12)
    for (name, each), shift in zip(rankings.items(), shifts, strict=True):
        axes.plot([each["verdicts"]], [each["tau_of_right"]], "o", color="#4878a8")
        axes.annotate(
            name, (each["verdicts"], each["tau_of_right"]), xytext=(0, shift), textcoords="offset points", ha="center", fontsize=7
        )
    axes.margins(0.35)
    axes.set_xlabel("verdicts a group of 8 answers")
    axes.set_ylabel("tau-b with true quality, answers without a mistake")


def _parity(axes: Axes, part: Mapping[str, Any]) -> None:
    axes.bar(list(ENGINES), [part[engine]["max"] for engine in ENGINES], color="#4878a8")
    axes.axhline(1e-3, color="#333333", linestyle=":")
    axes.set_yscale("log")
    axes.set_ylabel("greatest difference of p_a, vLLM less in-process")
