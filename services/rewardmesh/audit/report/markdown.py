"""An audit as Markdown: the verdict first, then all figures in one table, then a section a probe."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rewardmesh.audit.figures import Figure
from rewardmesh.audit.findings import Example, Section, Table
from rewardmesh.audit.subject import Audit

_RELATION = {"lower": "≤", "higher": "≥", "zero": "± ≤"}
_MET = {True: "met", False: "**not met**", None: "-"}


def markdown(audit: Audit) -> str:
    """The report; plots are named as `write_report` names them."""
    subject = ", ".join(f"{name} `{value}`" for name, value in audit.subject.items() if value)
    lines = [
        f"# Audit of a {audit.kind}: {'passed' if audit.passed else 'not passed'}",
        "",
        f"{subject[:1].upper()}{subject[1:]}.",
        f"Data: {audit.data}. {audit.created}.",
        f"Settings: {', '.join(f'{name} {value}' for name, value in audit.settings.items())}.",
        "",
    ]
    if audit.failures:
        lines += ["Why it did not pass:", "", *(f"- {failure}" for failure in audit.failures), ""]
    if audit.figures:
        lines += ["## Figures", "", *_figures(audit.figures), "", "![All figures against their thresholds](figures.png)", ""]
    if audit.missing:
        lines += ["Not measured:", "", *(f"- `{name}`: {reason}" for name, reason in audit.missing.items()), ""]
    for section in audit.sections:
        lines += _section(section)
    return "\n".join(lines).rstrip() + "\n"


def number(value: float | None, unit: str = "") -> str:
    """A value as people read it."""
    if value is None:
        return ""
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3f}" if abs(value) >= 0.001 or value == 0 else f"{value:.3g}"
    return f"{text} {unit}".rstrip()


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table."""
    return [_line(header), _line(["---"] * len(header)), *map(_line, rows)]


def _figures(figures: Iterable[Figure]) -> list[str]:
    rows = [
        (
            f"`{figure.name}`",
            number(figure.value, figure.spec.unit),
            "" if figure.estimate.low is None else f"{number(figure.estimate.low)} to {number(figure.estimate.high)}",
            "" if figure.threshold is None else f"{_RELATION[figure.spec.better]} {figure.threshold:g}",
            _MET[figure.met],
            str(figure.estimate.n),
        )
        for figure in figures
    ]
    return table(("figure", "value", "95 % interval", "threshold", "", "n"), rows)


def _section(section: Section) -> list[str]:
    findings = section.findings
    lines = [f"## {section.title}", "", section.meaning, ""]
    lines += [f"- `{figure.name}` = {number(figure.value, figure.spec.unit)}: {figure.spec.meaning}" for figure in section.figures]
    if section.figures:
        lines.append("")
    if section.asked:
        lost = sum(section.absent.values())
        reasons = ", ".join(f"{reason} {count} ({section.details.get(reason, '')})" for reason, count in sorted(section.absent.items()))
        lines += [f"{section.asked} questions in {section.seconds:.1f} s, {lost} without a verdict{': ' + reasons if lost else ''}.", ""]
    for note in findings.notes:
        lines += [note, ""]
    for plot in findings.plots:
        lines += [f"![{plot.title}]({plot.name}.png)", ""]
    for each in findings.tables:
        lines += _titled(each)
    if findings.examples:
        lines += ["<details><summary>Worst items</summary>", ""]
        for example in findings.examples:
            lines += _example(example)
        lines += ["</details>", ""]
    return lines


def _titled(each: Table) -> list[str]:
    return [f"{each.title}:", "", *table(each.header, each.rows), ""]


def _example(example: Example) -> list[str]:
    lines = [f"**{_cell(example.id)}**: {_cell(example.what)}", ""]
    for name, text in example.texts.items():
        # Fenced, with a fence longer than any in the text: what was judged must not become part of the page.
        fence = "`" * max(3, 1 + max((len(run) for run in _runs(text)), default=0))
        lines += [f"{name}:", "", f"{fence}text", text, fence, ""]
    return lines


def _runs(text: str) -> list[str]:
    """Runs of backquotes."""
    return ["`" * len(run) for run in "".join(sign if sign == "`" else " " for sign in text).split()]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_cell, cells))} |"


def _cell(text: str) -> str:
    """A text on one line that does not end the cell."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
