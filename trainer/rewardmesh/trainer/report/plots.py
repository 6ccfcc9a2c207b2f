"""The plots of the report, from the metrics of every step. An absent number leaves a gap; it is never drawn as 0."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from markupsafe import Markup
from matplotlib.artist import Artist

from rewardmesh.trainer.report.canvas import COLOURS, Canvas, legend
from rewardmesh.trainer.report.numbers import number, wilson_interval

Metrics = Sequence[Mapping[str, object]]
Series = npt.NDArray[np.float64]
_PHASES = ("generate", "score", "reference", "train", "publish")
_MOST_STACKED = len(COLOURS)


@dataclass(frozen=True)
class Plot:
    """A drawn figure, or the sentence that says why there is none."""

    title: str
    svg: Markup | None
    note: str = ""


def all_plots(metrics: Metrics, summary: Mapping[str, object]) -> list[Plot]:
    """Every plot the metrics have numbers for; the rest become a note."""
    components = sorted({key for record in metrics for key in record if key.startswith("component/")})
    plots = [_line(metrics, "Composed reward", "reward_mean", "mean of present rewards")]
    plots += [_line(metrics, f"Component {key.removeprefix('component/')}", key, "mean of present values") for key in components]
    plots += [
        _reward_against_kl(metrics),
        _line(metrics, "KL from the reference", "kl", "nats"),
        _accuracy(metrics, summary),
        _line(metrics, "Completion length", "length_mean", "tokens"),
        _line(metrics, "Share cut off at the length limit", "truncated_fraction", "share"),
        _stacked_seconds(metrics),
        _line(metrics, "Share of the step spent waiting for rewards", "reward_wait_fraction", "share"),
        _stacked_counts(metrics, "Absences by signal and reason", "absences/", "No score of any signal was absent."),
        _stacked_counts(metrics, "Samples left out of the update", "left_out/", "No sample was left out of an update."),
        _line(metrics, "Loss", "loss", "loss"),
        _line(metrics, "Gradient norm", "grad_norm", "norm"),
    ]
    return plots


def series(metrics: Metrics, key: str) -> Series:
    """One value per step, NaN where it is missing or not finite."""
    return np.array([value if (value := number(record.get(key))) is not None else math.nan for record in metrics], dtype=np.float64)


def moving_mean(values: Series, window: int) -> Series:
    """Mean of the last `window` values that are there; NaN where none is."""
    present = ~np.isnan(values)
    kernel = np.ones(window)
    sums = np.convolve(np.where(present, values, 0.0), kernel)[: len(values)]
    counts = np.convolve(present.astype(np.float64), kernel)[: len(values)]
    means = np.full(len(values), math.nan)
    np.divide(sums, counts, out=means, where=counts > 0)
    return means


def _line(metrics: Metrics, title: str, key: str, ylabel: str) -> Plot:
    steps, values = series(metrics, "step"), series(metrics, key)
    if not np.isfinite(values).any():
        return Plot(title, None, "Not recorded in this run.")
    window = max(1, len(values) // 10)
    canvas = Canvas(title, ylabel)
    with canvas as axes:
        if window == 1:
            axes.plot(steps, values, color=COLOURS[0], marker="o", markersize=3)
        else:
            each = axes.plot(steps, values, color=COLOURS[5], marker="o", markersize=2, linewidth=0.6, alpha=0.8)
            mean = axes.plot(steps, moving_mean(values, window), color=COLOURS[3], linewidth=2)
            legend(axes, [each[0], mean[0]], ["each step", f"mean of the last {window}"])
    return Plot(title, canvas.svg())


def _reward_against_kl(metrics: Metrics) -> Plot:
    title = "Reward against KL"
    steps, rewards, kls = (series(metrics, key) for key in ("step", "reward_mean", "kl"))
    known = np.isfinite(rewards) & np.isfinite(kls)
    if not known.any():
        return Plot(title, None, "No step has both a reward and a KL.")
    canvas = Canvas(title, "composed reward", "KL from the reference (nats)")
    with canvas as axes:
        points = axes.scatter(kls[known], rewards[known], c=steps[known], cmap="cividis", s=16, edgecolors="#888888", linewidths=0.4)
        axes.figure.colorbar(points, ax=axes, label="step")
    return Plot(title, canvas.svg())


def _accuracy(metrics: Metrics, summary: Mapping[str, object]) -> Plot:
    title = "Accuracy"
    steps, probes = series(metrics, "step"), series(metrics, "accuracy")
    known = np.isfinite(probes)
    ends = [("before", 0.0), ("after", float(steps[-1]) if len(steps) else 1.0)]
    held_out = [(step, share) for when, step in ends if (share := number(summary.get(f"heldout_accuracy_{when}"))) is not None]
    if not known.any() and not held_out:
        return Plot(title, None, "Not recorded in this run.")
    n = number(summary.get("heldout_n"))
    canvas = Canvas(title, "share right")
    with canvas as axes:
        handles: list[Artist | tuple[Artist, ...]] = []
        labels = []
        if known.any():
            handles += axes.plot(steps[known], probes[known], color=COLOURS[0], marker="o", markersize=3)
            labels.append("training probes")
        if held_out:
            bounds = [wilson_interval(share, int(n)) if n and n >= 1 and 0 <= share <= 1 else (share, share) for _, share in held_out]
            below = [max(0.0, share - low) for (_, share), (low, _) in zip(held_out, bounds, strict=True)]
            above = [max(0.0, high - share) for (_, share), (_, high) in zip(held_out, bounds, strict=True)]
            where, shares = [step for step, _ in held_out], [share for _, share in held_out]
            handles.append(axes.errorbar(where, shares, yerr=[below, above], fmt="D", color=COLOURS[3], capsize=4))
            labels.append("held out, 95% interval")
        legend(axes, handles, labels)
    return Plot(title, canvas.svg())


def _stacked_seconds(metrics: Metrics) -> Plot:
    title = "Seconds per step"
    phases = {phase: series(metrics, f"seconds_{phase}") for phase in _PHASES}
    total = series(metrics, "seconds_total")
    drawn = {phase: values for phase, values in phases.items() if np.isfinite(values).any()}
    if not drawn and not np.isfinite(total).any():
        return Plot(title, None, "Not recorded in this run.")
    return _stack(metrics, title, "seconds", drawn, total=total if np.isfinite(total).any() else None)


def _stacked_counts(metrics: Metrics, title: str, prefix: str, none: str) -> Plot:
    if not metrics:
        return Plot(title, None, "No step was recorded.")
    counts = {key.removeprefix(prefix): 0.0 for record in metrics for key in record if key.startswith(prefix)}
    columns = {name: series(metrics, prefix + name) for name in sorted(counts)}
    columns = {name: values for name, values in columns.items() if np.nansum(values) > 0}
    if not columns:
        return Plot(title, None, none)
    ranked = sorted(columns, key=lambda name: -np.nansum(columns[name]))
    shown = {name: columns[name] for name in ranked[: _MOST_STACKED if len(ranked) <= _MOST_STACKED else _MOST_STACKED - 1]}
    if len(shown) < len(ranked):
        shown[f"{len(ranked) - len(shown)} more"] = np.nansum([columns[name] for name in ranked[len(shown) :]], axis=0)
    return _stack(metrics, title, "samples", shown)


def _stack(metrics: Metrics, title: str, ylabel: str, columns: Mapping[str, Series], total: Series | None = None) -> Plot:
    # One bar per bin: a thousand bars would be a megabyte of SVG and no more readable.
    bins = max(1, math.ceil(len(metrics) / 120))
    step = _binned(series(metrics, "step"), bins, np.nanmean)
    width = 0.85 * (float(np.median(np.diff(step))) if len(step) > 1 else 1.0)
    floor = np.zeros(len(step))
    canvas = Canvas(title, ylabel if bins == 1 else f"{ylabel}, mean of {bins} steps")
    with canvas as axes:
        handles: list[Artist | tuple[Artist, ...]] = []
        for colour, values in zip(COLOURS, columns.values(), strict=False):
            heights = _binned(np.nan_to_num(values), bins, np.mean)
            handles.append(axes.bar(step, heights, width, bottom=floor, color=colour))
            floor = floor + heights
        labels = list(columns)
        if total is not None:
            handles += axes.plot(step, _binned(total, bins, np.nanmean), color="#888888", linewidth=1.2, linestyle="--")
            labels.append("whole step")
        legend(axes, handles, labels)
    return Plot(title, canvas.svg())


def _binned(values: Series, size: int, reduce: Callable[[Series], object]) -> Series:
    parts = [values[start : start + size] for start in range(0, len(values), size)]
    return np.array([math.nan if np.isnan(part).all() else reduce(part) for part in parts], dtype=np.float64)
