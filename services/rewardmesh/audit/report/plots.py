"""Draws the plots of an audit as PNG, without pyplot and so without its global state. Needs matplotlib."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Sequence

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator

from rewardmesh.audit.figures import Figure
from rewardmesh.audit.findings import Bars, Histogram, Matrix, Plot, Points, Reliability
from rewardmesh.audit.subject import Audit

# Okabe and Ito's palette: told apart with every common colour vision deficiency.
BLUE, ORANGE, GREEN, RED, PINK, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
COLOURS = (BLUE, RED, GREEN, PINK, ORANGE, SKY)
GREY = "#888888"
WIDTH = 7.0
"""Inches."""
_STYLE = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "text.parse_math": False,  # a label may hold a dollar sign
}


def draw(plot: Plot) -> bytes:
    """One plot as PNG."""
    with rc_context(_STYLE):
        match plot:
            case Points():
                return _points(plot)
            case Bars():
                return _bars(plot)
            case Histogram():
                return _histogram(plot)
            case Reliability():
                return _reliability(plot)
            case Matrix():
                return _matrix(plot)


def overview(audit: Audit) -> bytes:
    """All figures with a threshold on one scale: 1 is the threshold, left of it is met. Figures that must be high are turned round."""
    judged = [figure for figure in audit.figures if figure.met is not None]
    with rc_context(_STYLE):
        canvas = Canvas(figsize=(WIDTH, 0.9 + 0.32 * max(len(judged), 1)), layout="constrained")
        axes = canvas.add_subplot()
        for place, figure in enumerate(reversed(judged)):
            value, low, high = _relative(figure)
            colour = BLUE if figure.met else RED
            # Never further than the axis: the arrow says that it goes on.
            shown = min(value, _MOST)
            axes.plot([min(low, _MOST), min(high, _MOST)], [place, place], color=colour, linewidth=2.5, alpha=0.5, solid_capstyle="butt")
            axes.plot(shown, place, ">" if value > _MOST else "o", color=colour, markersize=6, clip_on=False)
            sign = {"lower": "≤", "higher": "≥", "zero": "|·| ≤"}[figure.spec.better]
            text = f"{figure.value:.3g} ({sign} {figure.threshold:g})"
            axes.annotate(text, (1.02, place), xycoords=("axes fraction", "data"), va="center", fontsize=8, color=colour)
        axes.axvline(1, color="black", linestyle="--", linewidth=1)
        axes.axvspan(1, _MOST, color=RED, alpha=0.05, linewidth=0)
        axes.set_xlim(0, _MOST)
        axes.set_ylim(-0.6, max(len(judged), 1) - 0.4)
        axes.set_yticks(range(len(judged)), [figure.name for figure in reversed(judged)])
        axes.set_xlabel("share of what the threshold allows (dashed line: all of it), bar: 95 % interval")
        axes.set_title(f"{len([f for f in judged if f.met])} of {len(judged)} thresholds met")
        return _png(canvas)


_MOST = 2.0


def _relative(figure: Figure) -> tuple[float, float, float]:
    """Value and interval in units of what the threshold allows: for a share that must be high, of the distance from 1."""
    threshold = figure.threshold if figure.threshold is not None else math.nan
    if threshold == (1 if figure.spec.better == "higher" else 0):
        # Nothing is allowed: met exactly, or not at all; an interval has no scale.
        return (0.0, 0.0, 0.0) if figure.met else (math.inf, math.inf, math.inf)
    values = [figure.value, *(figure.value if bound is None else bound for bound in (figure.estimate.low, figure.estimate.high))]
    if figure.spec.better == "higher":
        allowed = 1 - threshold
        value, high, low = (max((1 - each) / allowed, 0.0) for each in values)
        return value, low, high
    allowed = threshold
    if figure.spec.better == "zero":
        value, low, high = values
        ends = sorted((abs(low), abs(high)))
        least = 0.0 if low <= 0 <= high else ends[0]
        return abs(value) / allowed, least / allowed, ends[1] / allowed
    value, low, high = (max(each, 0.0) / allowed for each in values)
    return value, low, high


def _points(plot: Points) -> bytes:
    square = plot.diagonal
    canvas, axes = _axes(plot.title, plot.x_label, plot.y_label, (4.6, 4.4) if square else (WIDTH, 3.8))
    for colour, (name, points) in zip(COLOURS, plot.groups.items(), strict=False):
        label = f"{name} (n = {len(points)})"
        axes.plot(
            [x for x, _ in points], [y for _, y in points], "o", color=colour, markersize=4, alpha=0.55, markeredgewidth=0, label=label
        )
    if plot.diagonal:
        axes.plot([0, 1], [0, 1], "--", color="black", linewidth=1, label="no bias")
        axes.set_xlim(-0.03, 1.03)
        axes.set_ylim(-0.03, 1.03)
        axes.set_aspect("equal")
    else:
        axes.axhline(0, color=GREY, linewidth=0.8)
        axes.axvline(0, color=GREY, linewidth=0.8)
    if plot.line:
        axes.plot(*zip(*plot.line, strict=True), color="black", linewidth=1.5, label=plot.line_label)
    _legend(canvas)
    return _png(canvas)


def _bars(plot: Bars) -> bytes:
    labels = ["\n".join(textwrap.wrap(label, 38)) for label, *_ in plot.bars]
    canvas, axes = _axes(plot.title, plot.x_label, "", (WIDTH, 1.1 + 0.34 * max(len(plot.bars), 2)))
    values = [value for _, value, _, _ in plot.bars]
    places = list(range(len(values)))[::-1]
    axes.barh(places, values, color=BLUE, height=0.62)
    for place, (_, value, low, high) in zip(places, plot.bars, strict=True):
        if low is not None and high is not None and math.isfinite(low):
            axes.errorbar(value, place, xerr=[[max(value - low, 0)], [max(high - value, 0)]], color="black", capsize=3, linewidth=1)
    axes.axvline(0, color="black", linewidth=0.8)
    if plot.threshold is not None:
        axes.axvline(plot.threshold, color=RED, linestyle="--", linewidth=1.2, label=f"threshold {plot.threshold:g}")
        _legend(canvas)
    axes.set_yticks(places, labels)
    axes.grid(visible=False, axis="y")
    axes.margins(x=0.08)
    return _png(canvas)


def _histogram(plot: Histogram) -> bytes:
    canvas, axes = _axes(plot.title, plot.x_label, "items", (WIDTH, 2.8))
    low, high = min(plot.values), max(plot.values)
    # One narrow bin around a single value says more than an axis without extent.
    width = high - low if high > low else max(abs(high), 1.0) * 0.1
    axes.hist(plot.values, bins=30, range=(low, low + width) if high > low else (low - width, high + width), color=BLUE, alpha=0.85)
    for colour, style, (name, value) in zip(("black", RED), ("--", "-"), plot.marks.items(), strict=False):
        axes.axvline(value, color=colour, linestyle=style, linewidth=1.4, label=name)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    if plot.marks:
        _legend(canvas)
    return _png(canvas)


def _reliability(plot: Reliability) -> bytes:
    canvas, axes = _axes(plot.title, "confidence max(p, 1 - p), mean of a bin", "share that is right (numbers: pairs)", (4.8, 4.4))
    axes.plot([0.5, 1], [0.5, 1], "--", color="black", linewidth=1, label="calibrated")
    for place, (stated, observed, low, high, n) in enumerate(plot.bins):
        axes.errorbar(stated, observed, yerr=[[max(observed - low, 0)], [max(high - observed, 0)]], color=BLUE, capsize=3, linewidth=1)
        axes.plot(stated, observed, "o", color=BLUE, markersize=5)
        # Above and below by turns: neighbouring bins lie close.
        end, by, align = (low, -3, "top") if place % 2 else (high, 3, "bottom")
        axes.annotate(f"{n}", (stated, end), xytext=(0, by), textcoords="offset points", ha="center", va=align, fontsize=7, color="#555555")
    axes.set_xlim(0.47, 1.03)
    axes.set_ylim(-0.06, 1.08)
    _legend(canvas)
    return _png(canvas)


def _matrix(plot: Matrix) -> bytes:
    canvas, axes = _axes(plot.title, plot.x_label, plot.y_label, (1.6 + 1.1 * len(plot.columns), 1.3 + 0.6 * len(plot.rows)))
    most = max(max(row) for row in plot.counts) or 1
    axes.imshow(plot.counts, cmap="Blues", vmin=0, vmax=most * 1.3, aspect="auto")
    for y, row in enumerate(plot.counts):
        for x, count in enumerate(row):
            axes.annotate(str(count), (x, y), ha="center", va="center", color="white" if count > 0.8 * most else "black")
    axes.set_xticks(range(len(plot.columns)), plot.columns)
    axes.set_yticks(range(len(plot.rows)), plot.rows)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return _png(canvas)


def _axes(title: str, x_label: str, y_label: str, size: tuple[float, float]) -> tuple[Canvas, Axes]:
    canvas = Canvas(figsize=size, layout="constrained")
    axes = canvas.add_subplot()
    axes.set_title(title)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    return canvas, axes


def _legend(canvas: Canvas) -> None:
    """Below the axes, where it covers nothing."""
    handles, labels = canvas.axes[0].get_legend_handles_labels()
    canvas.legend(handles, [f" {label}" for label in labels], loc="outside lower left", ncols=_columns(labels))


def _columns(labels: Sequence[str]) -> int:
    return 3 if sum(map(len, labels)) < 70 else 2


def _png(canvas: Canvas) -> bytes:
    content = io.BytesIO()
    canvas.savefig(content, format="png", dpi=110, metadata={"Software": ""})
    return content.getvalue()
