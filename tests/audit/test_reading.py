"""Every layout of audit data is read, and what is wrong in a file is named by line and field."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from rewardmesh.audit import AuditError
from rewardmesh.audit.judge import built_in, read_corpus
from rewardmesh.audit.judge.reading import read_judge_data, read_paraphrases
from rewardmesh.audit.verifier import read_verifier_data

GSM8K = {
    "question": "2 + 2?",
    "reference": "#### 4",
    "answers": [
        {"solution": "A: 4", "is_correct": True, "model": "one"},
        {"solution": "A: 5", "is_correct": False, "model": "two"},
        {"solution": "It is 4.\nA: 4", "is_correct": True, "model": "two"},
    ],
}


def written(path: Path, *rows: Any) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return path


def test_pairs(tmp_path: Path) -> None:
    rows = [{"prompt": "q", "a": "x", "b": "y", "label": label, "a_model": "me"} for label in ("a", "b", "tie", 0.7, None)] + [
        {"prompt": [{"role": "user", "content": "q"}], "chosen": "x", "rejected": "y", "references": "r", "id": "mine"}
    ]
    data = read_judge_data(written(tmp_path / "d.jsonl", *rows, ""))
    assert [pair.label for pair in data.pairs] == [1.0, 0.0, 0.5, 0.7, None, 1.0]
    assert data.pairs[0].a.model == "me"
    assert (data.pairs[-1].id, data.pairs[-1].references, data.pairs[-1].prompt) == ("mine", ("r",), (("user", "q"),))
    assert len(read_judge_data(tmp_path / "d.jsonl", limit=2).pairs) == 2


def test_a_byte_order_mark_and_further_fields_are_no_mistakes(tmp_path: Path) -> None:
    path = written(tmp_path / "d.jsonl", {"prompt": "q", "a": "x", "b": "y", "label": "a", "labels": ["old"], "source": "web"})
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_judge_data(path).pairs[0].label == 1.0


def test_dialogues_in_a_gzipped_file(tmp_path: Path) -> None:
    def talk(last: str, first: str = "hi") -> str:
        return f"\n\nHuman: {first}\n\nAssistant: what?\n\nHuman: tell me\n\nAssistant: {last}"

    rows = [
        {"chosen": talk("good"), "rejected": talk("bad")},
        {"chosen": talk("good"), "rejected": talk("")},
        {"chosen": talk("good"), "rejected": talk("bad", "ho")},
    ]
    path = tmp_path / "d.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    data = read_judge_data(path)
    [pair] = data.pairs
    assert pair.prompt == (("user", "hi"), ("assistant", "what?"), ("user", "tell me"))
    assert (pair.a.text, pair.b.text, pair.label) == ("good", "bad", 1.0)
    assert dict(data.left_out) == {"the last answer is empty": 1, "the dialogues differ before the last answer": 1}
    assert "1 left out: the last answer is empty" in data.describe()


def test_gsm8k_answers(tmp_path: Path) -> None:
    path = written(tmp_path / "d.jsonl", GSM8K)
    data = read_judge_data(path)
    assert [(pair.a.text, pair.b.text, pair.label) for pair in data.pairs] == [
        ("A: 4", "A: 5", 1.0),
        ("A: 5", "It is 4.\nA: 4", 0.0),
        ("A: 4", "It is 4.\nA: 4", 0.5),
    ]
    assert [len(group.answers) for group in data.groups] == [3]
    labelled = read_verifier_data(path)
    assert [(each.id, each.right, each.group_id) for each in labelled.answers] == [
        ("1.1", True, "1"),
        ("1.2", False, "1"),
        ("1.3", True, "1"),
    ]


def test_groups_of_texts(tmp_path: Path) -> None:
    data = read_judge_data(
        written(tmp_path / "d.jsonl", {"prompt": "q", "answers": ["x", "y", "z"]}, {"prompt": "q", "answers": ["x", "y"]})
    )
    assert len(data.groups) == 1
    assert len(data.pairs) == 3


def test_labelled_answers(tmp_path: Path) -> None:
    rows = [{"prompt": "q", "completion": "x", "label": label, "references": ["r"]} for label in (True, False, 1, 0.4)]
    data = read_verifier_data(written(tmp_path / "d.jsonl", *rows))
    assert [each.right for each in data.answers] == [True, False, True, False]
    assert len(read_verifier_data(tmp_path / "d.jsonl", limit=3).answers) == 3


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", ":1: is no JSON"),
        ("[1]", ":1: must be a JSON object"),
        ("", "holds no lines"),
        ({"prompt": "q", "a": "x"}, ":1: b: is missing; the line has prompt, a"),
        ({"prompt": "", "a": "x", "b": "y"}, ":1: prompt: must be a text"),
        ({"prompt": [{"role": "boss", "content": "q"}], "a": "x", "b": "y"}, r":1: prompt\[0\]: must be"),
        ({"prompt": "q", "a": "x", "b": "y", "label": 2}, ":1: label: must be"),
        ({"prompt": "q", "a": "x", "b": "y", "label": True}, ":1: label: must be"),
        ({"prompt": "q", "a": "x", "b": "y", "lable": "a"}, r":1: lable: is unknown \(did you mean 'label'\?\)"),
        ('{"prompt": "q", "a": "x", "a": "z", "b": "y"}', ":1: is no JSON: a name is given twice"),
        ({"prompt": "q", "a": "x", "b": 1}, ":1: b: must be a text"),
        ({"chosen": "hello", "rejected": "hi"}, ":1: chosen: must be a dialogue"),
        ({"prompt": "q", "answers": ["x"]}, ":1: answers: must be at least two"),
        ({**GSM8K, "answers": [{"solution": "A"}]}, r":1: answers\[0\]: must be"),
        ({**GSM8K, "answers": GSM8K["answers"][:1]}, "holds no pair of answers"),
    ],
)
def test_mistakes_in_judge_data(tmp_path: Path, row: Any, message: str) -> None:
    with pytest.raises(AuditError, match=message):
        read_judge_data(written(tmp_path / "d.jsonl", row))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "q", "label": True}, ":1: completion: is missing"),
        ({"prompt": "q", "completion": "x"}, ":1: label: must be true, false"),
        ({"prompt": "q", "completion": "x", "label": "yes"}, ":1: label: must be true, false"),
        ({"prompt": "q", "completion": "x", "label": True, "references": [1]}, ":1: references: must be a list of texts"),
        ({"prompt": "q", "completion": "x", "label": True, "reference": "r"}, r":1: reference: is unknown \(did you mean 'references'"),
    ],
)
def test_mistakes_in_verifier_data(tmp_path: Path, row: Any, message: str) -> None:
    with pytest.raises(AuditError, match=message):
        read_verifier_data(written(tmp_path / "d.jsonl", row))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(AuditError, match="cannot be read"):
        read_judge_data(tmp_path / "none.jsonl")
    (tmp_path / "d.jsonl.gz").write_bytes(b"no gzip")
    with pytest.raises(AuditError, match="cannot be read"):
        read_judge_data(tmp_path / "d.jsonl.gz")
    (tmp_path / "d.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(AuditError, match="cannot be read"):
        read_verifier_data(tmp_path / "d.jsonl")


def test_the_corpus() -> None:
    corpus = built_in()
    assert len(corpus.injections) >= 40
    assert len({each.text for each in corpus.injections}) == len(corpus.injections)
    assert len(corpus.controls) >= 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "cannot be read"),
        ("injections: []", "must hold injections"),
        ("injections: [x]", r"injections\[0\]: must be"),
        ("injections: [{kind: a, text: b}]\ncontrols: [1]", r"controls\[0\]: must be a text"),
        ("injections: [{kind: a, text: b}]\nother: 1", "nothing else"),
    ],
)
def test_mistakes_in_a_corpus(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(AuditError, match=message):
        read_corpus(tmp_path / "c.yaml")


def test_paraphrases(tmp_path: Path) -> None:
    assert read_paraphrases(written(tmp_path / "p.jsonl", {"original": "x", "paraphrase": "y"})) == (("x", "y"),)
    with pytest.raises(AuditError, match=":1: paraphrase: is missing"):
        read_paraphrases(written(tmp_path / "p.jsonl", {"original": "x"}))
