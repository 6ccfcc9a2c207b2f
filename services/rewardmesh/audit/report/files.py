"""Writes an audit: a folder for people, and one small file that a gate reads.

Every file is written beside its place and moved there, so that a reader never sees half of one.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rewardmesh.audit.errors import AuditError
from rewardmesh.audit.figures import Figure
from rewardmesh.audit.report.markdown import markdown
from rewardmesh.audit.subject import Audit


def check_folder(folder: Path) -> None:
    """Try to write there and leave no trace, before an audit of an hour has nowhere to go.

    Raises:
        OSError: the folder cannot be written.
    """
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / ".probe", b"\n")
        (folder / ".probe").unlink()
    finally:
        for each in made:
            if each.is_dir():
                each.rmdir()


def write_report(audit: Audit, folder: Path) -> Path:
    """Write report.md, audit.json and the plots as PNG; returns report.md.

    Raises:
        OSError: the folder cannot be written.
        ModuleNotFoundError: matplotlib is not installed.
    """
    from rewardmesh.audit.report.plots import draw, overview

    folder.mkdir(parents=True, exist_ok=True)
    plots = [plot for section in audit.sections for plot in section.findings.plots]
    if audit.figures:
        _write(folder / "figures.png", overview(audit))
    for plot in plots:
        _write(folder / f"{plot.name}.png", draw(plot))
    _write(folder / "audit.json", (json.dumps(to_json(audit), indent=1, ensure_ascii=False) + "\n").encode())
    _write(folder / "report.md", markdown(audit).encode())
    return folder / "report.md"


def write_gate(audit: Audit, folder: Path) -> Path:
    """Write FOLDER/<fingerprint>.json, which a judge's gate reads; returns its path.

    Figures without a threshold are left out: they decide nothing.

    Raises:
        AuditError: an audit that was interrupted, or a subject without fingerprint.
    """
    if not audit.complete:
        raise AuditError("the audit was interrupted: a gate file is written for whole audits only")
    fingerprint = audit.subject.get("fingerprint", "")
    if not fingerprint:
        raise AuditError(f"the {audit.kind} answered without a fingerprint: no gate could find its audit")
    figures = [
        {"name": figure.name, "value": figure.value, "threshold": figure.threshold, "met": figure.met}
        for figure in audit.figures
        if figure.met is not None
    ]
    document = {
        **{name: audit.subject[name] for name in ("fingerprint", "model", "template")},
        "version": int(audit.subject["version"]),
        "passed": audit.passed,
        "figures": figures,
        "created": audit.created,
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{fingerprint}.json"
    _write(path, (json.dumps(document, indent=1) + "\n").encode())
    return path


def to_json(audit: Audit) -> dict[str, Any]:
    """Everything but the data of the plots."""
    return {
        "kind": audit.kind,
        "subject": dict(audit.subject),
        "data": audit.data,
        "settings": dict(audit.settings),
        "created": audit.created,
        "complete": audit.complete,
        "passed": audit.passed,
        "failures": list(audit.failures),
        "figures": [_figure(figure) for figure in audit.figures],
        "missing": audit.missing,
        "sections": [
            {
                "name": section.name,
                "n": section.findings.n,
                "asked": section.asked,
                "absent": dict(section.absent),
                "details": dict(section.details),
                "seconds": round(section.seconds, 3),
                "notes": list(section.findings.notes),
                "tables": [asdict(table) for table in section.findings.tables],
                "examples": [{**asdict(example), "texts": dict(example.texts)} for example in section.findings.examples],
            }
            for section in audit.sections
        ],
    }


def _figure(figure: Figure) -> dict[str, Any]:
    return {
        "name": figure.name,
        "value": figure.value,
        "low": figure.estimate.low,
        "high": figure.estimate.high,
        "n": figure.estimate.n,
        "unit": figure.spec.unit,
        "better": figure.spec.better,
        "threshold": figure.threshold,
        "met": figure.met,
    }


def _write(path: Path, content: bytes) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:  # a full disk does not say which file it was
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        partial.unlink(missing_ok=True)
