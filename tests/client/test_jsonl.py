"""JSONL: one line out for each line in, in order, whatever is in it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from rewardmesh.client import CallFailed, ChannelOptions, Client, ProgramScorer, RewardScorer, VerifierScorer, score_jsonl

GOOD = {"id": "same", "prompt": "2 + 2?", "completion": "4", "references": ["4"], "tags": {"kind": "math"}, "extra": [1, None]}


def written(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def client(fake: Any) -> Iterator[Client]:
    with Client(fake.address, channel_options=ChannelOptions(max_attempts=1)) as opened:
        yield opened


def test_lines_keep_order_and_fields(client: Client, fake: Any, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    lines = [json.dumps({**GOOD, "completion": "x" * index}) for index in range(25)]
    progress: list[tuple[int, dict[str, int]]] = []
    counts = score_jsonl(
        client, lines, out, RewardScorer("rm"), batch_lines=10, on_progress=lambda done, counts: progress.append((done, dict(counts)))
    )
    assert counts == {"SCORED": 25}
    assert progress == [(10, {"SCORED": 10}), (20, {"SCORED": 20}), (25, {"SCORED": 25})]
    rows = written(out)
    assert [row["outcome"]["value"] for row in rows] == list(range(25))
    assert {key: rows[3][key] for key in GOOD} == {**GOOD, "completion": "xxx"}
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]
    sent = fake.requests[0]
    assert (sent.options.model.name, sent.samples[0].tags["kind"], sent.samples[0].references[0]) == ("rm", "math", "4")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 2"),
        ("", "line 2"),
        ("[1]", "not a JSON object"),
        (b"\xff\xfe", "line 2"),
        ('{"prompt": "p"}', "completion is missing"),
        ('{"completion": "c"}', "prompt is missing"),
        ('{"prompt": "p", "completion": 4}', "completion must be a string"),
        ('{"prompt": 4, "completion": "c"}', "prompt must be"),
        ('{"prompt": [], "completion": "c"}', "prompt must be"),
        ('{"prompt": [{"role": "user"}], "completion": "c"}', "role and a content"),
        ('{"prompt": [{"role": "king", "content": "c"}], "completion": "c"}', "unknown role 'king'"),
        ('{"prompt": "p", "completion": "c", "references": "r"}', "references"),
        ('{"prompt": "p", "completion": "c", "references": [1]}', "references"),
        ('{"prompt": "p", "completion": "c", "tags": {"a": 1}}', "tags"),
        ('{"prompt": "p", "completion": "c", "id": 7}', "id must be"),
        ('{"prompt": "p", "completion": "c", "group_id": null}', "group_id must be"),
        ('{"prompt": "p", "completion": "c", "x": NaN}', "NaN"),
        ('{"prompt": "p", "completion": "\\ud800"}', "line 2"),
        ("[" * 100_000, "line 2"),
    ],
)
def test_bad_lines_never_stop_the_run(client: Client, tmp_path: Path, line: str | bytes, words: str) -> None:
    counts = score_jsonl(client, [json.dumps(GOOD), line, json.dumps(GOOD)], tmp_path / "out", RewardScorer())
    assert counts == {"SCORED": 2, "INVALID_INPUT": 1}
    first, bad, last = written(tmp_path / "out")
    assert first["outcome"]["value"] == last["outcome"]["value"] == 1
    assert bad["outcome"]["value"] is None
    assert bad["outcome"]["line"] == 2
    assert bad["outcome"]["absence"]["reason"] == "INVALID_INPUT"
    assert bad["outcome"]["absence"]["detail"].startswith("line 2: ")
    assert words in bad["outcome"]["absence"]["detail"]


def test_a_file_with_broken_encoding_and_messages(client: Client, fake: Any, tmp_path: Path) -> None:
    turns = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]
    (tmp_path / "in").write_bytes(json.dumps({"prompt": turns, "completion": "é\u2028"}).encode() + b"\n\xff\n")
    assert score_jsonl(client, tmp_path / "in", tmp_path / "out", RewardScorer()) == {"SCORED": 1, "INVALID_INPUT": 1}
    assert [turn.content for turn in fake.requests[0].samples[0].prompt] == ["be brief", "hi"]


def test_verifier_and_program(client: Client, tmp_path: Path) -> None:
    score_jsonl(client, [json.dumps(GOOD)], tmp_path / "v", VerifierScorer("exact"))
    outcome = written(tmp_path / "v")[0]["outcome"]
    assert (outcome["value"], outcome["status"]) == (1.0, "PASS")
    score_jsonl(client, [json.dumps(GOOD)], tmp_path / "p", ProgramScorer("quality"))
    outcome = written(tmp_path / "p")[0]["outcome"]
    assert (outcome["value"], outcome["advice"], outcome["components"]) == (1.0, "", {"length": {"value": 1.0, "absence": None}})


def test_groups_stay_together_for_programs(client: Client, fake: Any, tmp_path: Path) -> None:
    groups = ["a", "a", "b", "b", "b", "c", "a"]
    lines = [json.dumps({**GOOD, "group_id": group}) for group in groups]
    counts = score_jsonl(client, lines, tmp_path / "out", ProgramScorer(), batch_lines=3)
    assert [[item.group_id for item in request.samples] for request in fake.requests] == [["a", "a", "b", "b", "b"], ["c"]]
    assert counts == {"SCORED": 6, "INVALID_INPUT": 1}
    assert "adjacent" in written(tmp_path / "out")[-1]["outcome"]["absence"]["detail"]
    assert score_jsonl(client, lines, tmp_path / "out", RewardScorer(), batch_lines=3) == {"SCORED": 7}


def test_absences_are_counted(client: Client, fake: Any, tmp_path: Path) -> None:
    fake.hook = lambda request, context: context.abort(grpc.StatusCode.UNAVAILABLE, "gone")
    assert score_jsonl(client, [json.dumps(GOOD)] * 2, tmp_path / "out", RewardScorer()) == {"INFRASTRUCTURE": 2}
    assert written(tmp_path / "out")[0]["outcome"]["value"] is None


def test_a_wrong_request_stops_and_leaves_the_old_file(client: Client, fake: Any, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("old")
    fake.hook = lambda request, context: context.abort(grpc.StatusCode.NOT_FOUND, "no such model")
    with pytest.raises(CallFailed, match="no such model"):
        score_jsonl(client, [json.dumps(GOOD)], tmp_path / "out", RewardScorer("nobody"))
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"out": "old"}


def test_memory_is_bounded(client: Client, fake: Any, tmp_path: Path) -> None:
    drawn = 0

    def lines() -> Iterator[str]:
        nonlocal drawn
        for _ in range(40):
            drawn += 1
            yield json.dumps(GOOD)

    ahead: list[int] = []
    score_jsonl(
        client, lines(), tmp_path / "out", RewardScorer(), batch_lines=5, on_progress=lambda done, counts: ahead.append(drawn - done)
    )
    assert max(ahead) <= 1
    with pytest.raises(ValueError, match="batch_lines"):
        score_jsonl(client, [], tmp_path / "out", RewardScorer(), batch_lines=0)
