"""`score`: every line gets an outcome, whatever is in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from .conftest import Start

LINES = [
    '{"id": "good", "prompt": "2+2?", "completion": "A: 4", "references": ["4"]}',
    "not json",
    '{"prompt": "2+2?"}',
    "",
    '{"id": "wrong", "prompt": "2+2?", "completion": "A: 5", "references": ["4"], "extra": 1}',
    '{"id": "no reference", "prompt": "2+2?", "completion": "A: 5"}',
]


def outcomes(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_score_with_a_verifier_of_its_own(tmp_path: Path, start: Start) -> None:
    (tmp_path / "in.jsonl").write_text("\n".join(LINES) + "\n", encoding="utf-8")
    process = start("score", "in.jsonl", "out.jsonl", "--verifier", "math")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    written = outcomes(tmp_path / "out.jsonl")
    assert [each["outcome"]["value"] for each in written] == [1.0, None, None, None, 0.0, None]
    assert written[1]["outcome"]["absence"]["reason"] == "INVALID_INPUT"
    assert written[4]["extra"] == 1
    assert "SCORED" in out
    assert "INVALID_INPUT" in out


def test_gsm8k_answers(tmp_path: Path, start: Start) -> None:
    answers = [
        {"model": "m", "solution": "It is 4.\nA: 4", "is_correct": True},
        {"model": "m", "solution": "It is 5.\nA: 5", "is_correct": True},
    ]
    record = {"question": "2+2?", "reference": "2+2=4\nA: 4", "answers": answers}
    (tmp_path / "in.jsonl").write_text(json.dumps(record) + '\n{"question": 1}\n', encoding="utf-8")
    process = start("score", "in.jsonl", "out.jsonl", "--verifier", "math", "--format", "gsm8k-answers")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "agreement with is_correct: 1/2 = 50.00%" in out
    assert "1.2" in out
    written = outcomes(tmp_path / "out.jsonl")
    assert [(each.get("id"), each["outcome"]["value"]) for each in written] == [("1.1", 1.0), ("1.2", 0.0), (None, None)]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--target", "127.0.0.1:1"], 2, "give exactly one of"),
        (["--verifier", "math", "--reward", "m"], 2, "give exactly one of"),
        (["--reward", "m"], 2, "--target host:port is needed"),
        (["--verifier", "no-such"], 1, "no-such"),
        (["--verifier", "math", "--target", "127.0.0.1:1"], 1, ""),
    ],
)
def test_mistakes(tmp_path: Path, start: Start, arguments: list[str], code: int, message: str) -> None:
    (tmp_path / "in.jsonl").write_text(LINES[0] + "\n", encoding="utf-8")
    process = start("score", "in.jsonl", "out.jsonl", *arguments)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert message in err
    assert "Traceback" not in err
    if not message:
        assert "INFRASTRUCTURE" in out
