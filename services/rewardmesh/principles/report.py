"""What came of the search, as files: the constitution for judges, a report for people with a plot, and all figures as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from matplotlib.figure import Figure

from rewardmesh.principles.outcome import Accuracy, Outcome, Tested
from rewardmesh.principles.settings import Settings

MOST_BARS = 20


def write_report(outcome: Outcome, settings: Settings, out: Path, name: str, version: int, data: str) -> list[Path]:
    """Write OUT (the constitution; not when it would be empty), and beside it .md, .png and .json; returns the files.

    Args:
        out: a .yaml file, which a judge's `constitutions` can name.
        name, version: of the constitution.
        data: what it was found in, for people.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    written = []
    if outcome.constitution:
        principles = [{"id": each.id, "text": each.text} for each in outcome.chosen]
        document = {"name": name, "version": version, "principles": principles}
        out.write_text(yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120))
        written.append(out)
    record = {"name": name, "version": version, "data": data, "settings": settings.model_dump(mode="json"), **_record(outcome)}
    for suffix, text in ((".json", json.dumps(record, indent=1) + "\n"), (".md", _markdown(outcome, out, name, version, data))):
        out.with_suffix(suffix).write_text(text)
        written.append(out.with_suffix(suffix))
    figure(outcome).savefig(out.with_suffix(".png"), dpi=144, bbox_inches="tight")
    return [*written, out.with_suffix(".png")]


def figure(outcome: Outcome) -> Figure:
    """Votes of the best candidates, and the labels reconstructed as the constitution grew and on held-out pairs."""
    shown = outcome.tested[:MOST_BARS]
    drawn = Figure(figsize=(11, 0.32 * max(len(shown), 6) + 1.4))
    votes, growth = drawn.subplots(1, 2, width_ratios=(2, 1))
    places = list(range(len(shown)))
    for sign, count, colour, label in ((1, "agree", "#4878a8", "for the label"), (-1, "against", "#b4464b", "against it")):
        widths = [sign * getattr(each.votes, count) / max(each.votes.judged, 1) for each in shown]
        votes.barh(places, widths, color=[colour if each.kept else "#bbbbbb" for each in shown], label=label)
    votes.set_yticks(places, [each.id if each.kept else f"{each.id} (refused)" for each in shown])
    votes.invert_yaxis()
    votes.axvline(0, color="#333333", linewidth=0.8)
    votes.set_xlabel("votes against the label | for it (share of the pairs)")
    steps = range(len(outcome.choice))
    growth.plot(steps, [100 * each.value for each in outcome.choice], "o-", color="#4878a8", label="pairs it was chosen on")
    for place, each in ((0, outcome.before), (len(outcome.choice) - 1, outcome.after)):
        low, high = each.interval
        error = [[100 * (each.value - low)], [100 * (high - each.value)]]
        growth.errorbar([place], [100 * each.value], error, fmt="s", color="#333333", capsize=3, label="held out" if not place else None)
    growth.set_xticks(list(steps))
    growth.set_xlabel("principles")
    growth.set_ylabel("labels reconstructed (%)")
    growth.legend(frameon=False)
    for axes in (votes, growth):
        axes.spines[["top", "right"]].set_visible(False)
    drawn.tight_layout()
    return drawn


def _markdown(outcome: Outcome, out: Path, name: str, version: int, data: str) -> str:
    test, choice, heldout = outcome.sizes
    lines = [
        f"# Principles behind {data}",
        "",
        f"Judge: {outcome.judge}. {test} pairs proposed and tested principles, {choice} chose among them, {heldout} were held out.",
        "",
    ]
    if outcome.constitution:
        lines += [f"Constitution `{name}`, version {version} ([{out.name}]({out.name})):", ""]
        lines += [f"{number}. {_cell(each.text)}" for number, each in enumerate(outcome.chosen, 1)]
    else:
        lines += ["No principle makes the judge agree with more labels than it does without: there is no constitution."]
    lines += [
        "",
        "| labels reconstructed | share | 95 % interval | pairs |",
        "| --- | --- | --- | --- |",
        _accuracy_row("held out, without principles", outcome.before),
        _accuracy_row("held out, with the constitution", outcome.after),
        *(_accuracy_row(f"chosen on, with {n} principles", each) for n, each in enumerate(outcome.choice)),
        "",
        f"![votes and accuracy]({out.with_suffix('.png').name})",
        "",
        "| candidate | source | net | coverage | effect | for / against / neutral / absent | verdict |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *map(_tested_row, outcome.tested),
        "",
    ]
    if outcome.unreadable:
        lines += [f"{outcome.unreadable} lines that the judge wrote are no principles (too short, too long, or a question).", ""]
    if outcome.absent:
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(outcome.absent.items()))
        lines += [f"Questions without a verdict: {reasons}. They count in no figure.", ""]
    return "\n".join(lines)


def _accuracy_row(title: str, found: Accuracy) -> str:
    low, high = found.interval
    absent = f" ({found.absent} more without a verdict)" if found.absent else ""
    return f"| {title} | {found.value:.1%} | {low:.1%} to {high:.1%} | {found.judged}{absent} |"


def _tested_row(each: Tested) -> str:
    votes = each.votes
    counts = f"{votes.agree} / {votes.against} / {votes.neutral} / {votes.absent}"
    verdict = "kept" if each.kept else f"refused: {each.refused}"
    figures = f"{votes.net:+.2f} | {votes.coverage:.0%} | {each.effect:.3f}"
    return f"| `{each.id}`: {_cell(each.text)} | {each.source} | {figures} | {counts} | {verdict} |"


def _cell(text: str) -> str:
    """Text of a judge as text of a table: no cell, tag or link of its own."""
    for mark in "\\`*_[]<>|":
        text = text.replace(mark, f"\\{mark}")
    return text


def _record(outcome: Outcome) -> dict[str, Any]:
    def accuracy(found: Accuracy) -> dict[str, Any]:
        return {"share": found.value if found.judged else None, **asdict(found)}

    return {
        "judge": outcome.judge,
        "constitution": list(outcome.constitution),
        "pairs": dict(zip(("tested", "chosen", "heldout"), outcome.sizes, strict=True)),
        "heldout": {"before": accuracy(outcome.before), "after": accuracy(outcome.after)},
        "choice": [accuracy(each) for each in outcome.choice],
        "tested": [
            {**asdict(each), "net": each.votes.net, "coverage": each.votes.coverage, "net_low": each.votes.net_low}
            for each in outcome.tested
        ],
        "absent": dict(outcome.absent),
        "unreadable": outcome.unreadable,
    }
