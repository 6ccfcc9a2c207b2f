"""What is written: the report, its plots, JSON, and the file that a gate reads."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from rewardmesh.audit import AuditError, Estimate, JudgeData, JudgeSettings, audit_judge
from rewardmesh.audit.figures import Figure, Spec
from rewardmesh.audit.findings import Example, Findings, Histogram, Section
from rewardmesh.audit.judge import assembled, specs
from rewardmesh.audit.report import write_gate, write_report
from rewardmesh.audit.report.markdown import markdown
from rewardmesh.audit.report.plots import draw
from rewardmesh.audit.verifier import specs as verifier_specs
from toy_judge import Toy, serving


async def test_a_report_of_every_probe(data: JudgeData, tmp_path: Path) -> None:
    authors = {answer.text: answer.model for pair in data.pairs for answer in (pair.a, pair.b)}
    toy = Toy(position=0.8, own=0.7, authors=authors, cyclic=False, obeys="WINNER")
    async with serving(toy) as client:
        audit = await audit_judge(client, data, JudgeSettings(own_name="mine"))
    report = write_report(audit, tmp_path / "audit").read_text(encoding="utf-8")
    named = set(re.findall(r"\]\(([\w-]+\.png)\)", report))
    assert named == {path.name for path in (tmp_path / "audit").glob("*.png")}
    assert len(named) >= 9
    assert all((tmp_path / "audit" / name).read_bytes().startswith(b"\x89PNG") for name in named)
    assert "# Audit of a judge: not passed" in report
    assert "position.logit is 0.8" in report
    document = json.loads((tmp_path / "audit" / "audit.json").read_text(encoding="utf-8"))
    assert document["passed"] is False
    [found] = [figure for figure in document["figures"] if figure["name"] == "position.logit"]
    assert found["low"] <= 0.8 + 1e-4
    assert found["met"] is False
    gate = json.loads(write_gate(audit, tmp_path / "gates").read_text())
    assert set(gate) == {"fingerprint", "model", "version", "template", "passed", "figures", "created"}
    assert (gate["fingerprint"], gate["version"], gate["passed"]) == ("f00d", 1, False)
    assert {"name": "position.logit", "value": found["value"], "threshold": 0.5, "met": False} in gate["figures"]
    assert not any(figure["threshold"] is None for figure in gate["figures"])


async def test_no_gate_file_without_fingerprint_or_end(data: JudgeData, tmp_path: Path) -> None:
    settings = JudgeSettings(probes=("calibration",))
    async with serving(Toy(fingerprints=[""])) as client:
        audit = await audit_judge(client, data, settings)
    with pytest.raises(AuditError, match="without a fingerprint"):
        write_gate(audit, tmp_path)
    unfinished = assembled(audit.sections[:1], None, data, settings, complete=False)
    assert not unfinished.passed
    with pytest.raises(AuditError, match="interrupted"):
        write_gate(unfinished, tmp_path)
    assert "the audit was interrupted" in write_report(unfinished, tmp_path / "r").read_text()


@pytest.mark.parametrize(
    ("better", "value", "threshold", "met"),
    [
        ("lower", 0.1, 0.1, True),
        ("lower", 0.2, 0.1, False),
        ("higher", 0.9, 0.9, True),
        ("higher", 0.8, 0.9, False),
        ("zero", -0.2, 0.1, False),
        ("zero", -0.05, 0.1, True),
        ("zero", 5.0, None, None),
        ("lower", math.nan, 0.1, False),
    ],
)
def test_thresholds(better: str, value: float, threshold: float | None, met: bool | None) -> None:
    spec = Spec("x.y", "", better, threshold, "")  # type: ignore[arg-type]
    assert Figure(spec, Estimate(value, None, None, 1), threshold).met is met


def test_judged_text_stays_in_its_fence(data: JudgeData) -> None:
    hostile = "```\n# Audit of a judge: passed\n````"
    findings = Findings(1, {}, examples=(Example("id", "a <b> | c", {"a": hostile}),))
    section = Section("x", "X", "", (), {}, 1, {}, {}, findings, 0.0)
    audit = assembled((), None, data, JudgeSettings(), complete=True)
    text = markdown(replace(audit, sections=(section,)))
    assert f"`````text\n{hostile}\n`````" in text
    assert "a &lt;b> \\| c" in text


def test_plots_of_odd_values() -> None:
    for values in ((0.0,), (1.0, 1.0), (-3.0, 5.0)):
        assert draw(Histogram("h", "$title$", "x", values, {"mark": 1.0})).startswith(b"\x89PNG")


def test_the_documentation_names_every_figure_with_its_threshold() -> None:
    page = (Path(__file__).parents[2] / "docs" / "audits.md").read_text(encoding="utf-8")
    for spec in (*specs(), *verifier_specs()):
        [line] = [line for line in page.splitlines() if line.startswith("|") and f"`{spec.name}`" in line.split("|")[1]]
        relation = {"lower": "≤", "higher": "≥", "zero": "±"}[spec.better]
        assert line.split("|")[2].strip() == ("–" if spec.threshold is None else f"{relation} {spec.threshold:g}"), line
