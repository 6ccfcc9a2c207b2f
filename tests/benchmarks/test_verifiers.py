"""The verifier benchmark: its data, its measures, and a small run of its cheap parts."""

import json
from pathlib import Path

import pytest
from benchmarks.verifiers.agreement import LABELLED
from benchmarks.verifiers.answers import formulas, read_answers
from benchmarks.verifiers.command import main
from benchmarks.verifiers.measures import Agreement
from benchmarks.verifiers.report import write_report
from benchmarks.verifiers.run import Settings, measure

FAST = Settings(only=("math",), repeats=1, rounds=1, problems=8)


def test_agreement_is_counted() -> None:
    found = Agreement.count([(True, 1.0), (True, 0.0), (False, 1.0), (False, 0.5), (True, None)])
    assert (found.examples, found.right, found.passed, found.agreed, found.absent) == (5, 3, 2, 2, 1)
    assert (found.share, found.precision, found.recall) == (0.4, 0.5, 1 / 3)
    assert Agreement.count([(False, 0.0)]).precision is None


def test_answers_are_read_with_their_labels(tmp_path: Path) -> None:
    row = {"question": "?", "reference": "A: 2", "answers": [{"model": "m", "solution": "A: 2", "is_correct": True}]}
    (tmp_path / "gsm8k_model_answers.jsonl").write_text(json.dumps(row) + "\n")
    (answer,), source = read_answers(tmp_path)
    assert (answer.id, answer.completion, answer.right) == ("0/m", "A: 2", True)
    assert "GSM8K" in source
    generated, source = read_answers(None)
    assert len(generated) == len({answer.id for answer in generated})
    assert "generated" in source
    assert {answer.right for answer in generated} == {True, False}


def test_formulas_are_half_right() -> None:
    made = formulas(16)
    assert sum(answer.right for answer in made) == len(made) // 2
    assert formulas(16) == made
    assert formulas(16, seed=1) != made


@pytest.mark.parametrize("file", sorted(LABELLED.glob("*.jsonl")), ids=lambda file: file.stem)
def test_labelled_files_are_well_formed(file: Path) -> None:
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert {row["wanted"] for row in rows} <= {"pass", "partial", "fail"}
    assert len({json.dumps(row, sort_keys=True) for row in rows}) == len(rows)


@pytest.mark.slow
def test_a_run_writes_its_report(tmp_path: Path) -> None:
    results = measure(FAST)
    assert results["math"]["agreement"]["share"] == results["math"]["formulas"]["share"] == 1
    path, bars = write_report(
        tmp_path,
        {"processor": "p", "usable_cores": 2, "threads": 1, "memory_gib": 1, "load_before": 0.0}
        | {"system": "s", "python": "3", "versions": {}, "time": "now"},
        results,
    )
    assert {file.name for file in tmp_path.iterdir()} == {"verifiers.json", "verifiers.md", "verifiers.png"}
    assert "| math: agreement with labels | 100 % | ≥ 99.5 % | yes |" in path.read_text()
    assert all(bar.met for bar in bars if "throughput" not in bar.name)
    results["math"]["disagreements"] = [
        {"id": "0/m", "stated": "A: 1", "reference": "A: 2", "label": True, "verdict": 0.0, "evidence": "", "explanation": None}
    ]
    _, bars = write_report(tmp_path, json.loads((tmp_path / "verifiers.json").read_text())["machine"], results)
    assert [bar.met for bar in bars if "without an explanation" in bar.name] == [False]


def test_unknown_parts_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--only", "judges"])
    assert "invalid choice" in capsys.readouterr().err
