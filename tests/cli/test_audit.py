"""`audit judge` and `audit verifier`: reports, gate files, activation, exit codes."""

from __future__ import annotations

import asyncio
import errno
import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rewardmesh.cli.app import app
from toy_judge import Models, Toy, make_data, serving

from .conftest import Start, until


async def audit(*arguments: object) -> tuple[int, str]:
    """Exit code and output of `rewardmesh audit ARGUMENT...`, run beside this event loop, in which the toy is served."""
    result = await asyncio.to_thread(CliRunner().invoke, app, ["audit", *map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.jsonl"
    rows = [
        {"id": pair.id, "prompt": pair.prompt[0][1], "a": pair.a.text, "b": pair.b.text, "label": pair.label}
        for pair in make_data(40).pairs
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


async def test_a_judge_that_passes_is_activated(pairs: Path, tmp_path: Path) -> None:
    models = Models()
    async with serving(Toy(), models) as client:
        arguments = ("judge", "--target", client.target, "--data", pairs, "--out", tmp_path / "out", "--audits-dir", tmp_path / "gates")
        code, output = await audit(*arguments, "--activate", 2)
    assert code == 0, output
    assert models.active == 2
    gate = json.loads((tmp_path / "gates" / "f00d.json").read_text())
    assert (gate["passed"], gate["version"]) == (True, 2)
    assert "version 2 is active" in output
    assert (tmp_path / "out" / "report.md").exists()


async def test_a_judge_that_fails_is_not(pairs: Path, tmp_path: Path) -> None:
    models = Models()
    async with serving(Toy(position=2.0), models) as client:
        arguments = ("judge", "--target", client.target, "--data", pairs, "--out", tmp_path / "out", "--audits-dir", tmp_path / "gates")
        code, output = await audit(*arguments, "--activate", 2)
    assert code == 1
    assert models.active == 1
    assert "failed: position.logit is 2" in output
    assert json.loads((tmp_path / "gates" / "f00d.json").read_text())["passed"] is False


async def test_a_judge_that_changes_leaves_the_report_of_what_was_finished(pairs: Path, tmp_path: Path) -> None:
    async with serving(Toy(fingerprints=["1"] * 5 + ["2"])) as client:
        code, output = await audit("judge", "--target", client.target, "--data", pairs, "--out", tmp_path / "out")
    assert code == 2
    assert "changed during the audit" in output
    document = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert document["complete"] is False
    assert [section["name"] for section in document["sections"]] == ["position", "length", "self_preference", "answers"]


@pytest.mark.slow
async def test_a_judge_of_its_own(tmp_path: Path, make_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    # Random weights give the labels little of the mass.
    monkeypatch.setenv("REWARDMESH_JUDGE_MIN_LABEL_MASS", "0")
    template = tmp_path / "short.yaml"
    template.write_text('name: shortest\nlabels: {a: A, b: B}\ntext: "{{ prompt }} A: {{ a }} B: {{ b }} Which is better?"\n')
    model = make_model("causal", max_position_embeddings=4096)
    arguments = ("--model", model, "--template", template, "--generated", 10, "--audits-dir", tmp_path / "gates")
    code, output = await audit("judge", *arguments, "--out", tmp_path / "out", "--threshold", "calibration.accuracy=1.1")
    assert code == 1, output
    [gate] = [json.loads(path.read_text()) for path in (tmp_path / "gates").iterdir()]
    assert (gate["template"], gate["passed"]) == ("shortest", False)
    assert len(gate["fingerprint"]) == 16
    [absent] = [figure for figure in gate["figures"] if figure["name"] == "answers.absent"]
    assert absent["value"] == 0


async def test_thresholds_from_file_and_command_line(pairs: Path, tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text("position.logit: 3\nposition.first: 0.6\nposition.flips: 0.1\n")
    async with serving(Toy(position=2.0)) as client:
        arguments = ("judge", "--target", client.target, "--data", pairs, "--out", tmp_path / "out", "--probe", "position")
        code, output = await audit(*arguments, "--thresholds", tmp_path / "t.yaml", "--threshold", "position.flips=1")
    assert code == 0, output


async def test_a_verifier_of_its_own_on_generated_problems(tmp_path: Path) -> None:
    code, output = await audit("verifier", "math", "--generated", 80, "--out", tmp_path / "out")
    assert code == 0, output
    document = json.loads((tmp_path / "out" / "audit.json").read_text())
    [accuracy] = [figure for figure in document["figures"] if figure["name"] == "agreement.accuracy"]
    assert (accuracy["value"], accuracy["n"]) == (1.0, 80)


async def test_an_interrupted_audit_keeps_what_it_has(pairs: Path, tmp_path: Path, start: Start) -> None:
    toy = Toy()
    async with serving(toy) as client:
        arguments = ("--target", client.target, "--data", pairs, "--out", "out", "--probe", "position", "--probe", "repetition")
        process = start("audit", "judge", *arguments, "--repeats", 100_000)
        # Position asks four times.
        await asyncio.to_thread(until, lambda: toy.calls > 20, "the second probe")
        process.send_signal(signal.SIGINT)
        out, err = await asyncio.to_thread(process.communicate)
    assert process.returncode == 130, err
    assert "interrupted" in err
    assert "position.logit" in out
    assert "Traceback" not in err
    document = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert (document["complete"], document["passed"]) == (False, False)
    assert [section["name"] for section in document["sections"]] == ["position", "answers"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["judge", "--generated", 5], 2, "give exactly one of --target, --model"),
        (["judge", "--target", "127.0.0.1:1"], 2, "give exactly one of --data, --generated"),
        (["judge", "--model", "m", "--generated", 5, "--activate", 2], 2, "--activate VERSION: needs --target"),
        (["judge", "--target", "127.0.0.1:1", "--generated", 5, "--probe", "length", "--activate", 2], 2, "a gate takes a whole audit"),
        (["judge", "--target", "127.0.0.1:1", "--generated", 5, "--probe", "nope"], 2, "probes: 'nope' is unknown"),
        (["judge", "--target", "127.0.0.1:1", "--generated", 5, "--threshold", "x"], 2, "'x' is not NAME=VALUE"),
        (["judge", "--target", "127.0.0.1:1", "--generated", 5, "--threshold", "x=y"], 2, "'y' is no number"),
        (["judge", "--target", "127.0.0.1:1", "--generated", 5, "--threshold", "x=1"], 2, "'x' is no figure of this audit"),
        (["judge", "--target", "127.0.0.1:1", "--generated", 5, "--threshold", "position.flips=nan"], 2, "nan is no limit"),
        (["judge", "--target", "nowhere", "--generated", 5], 2, "--target: 'nowhere' in target 'nowhere' is not host:port"),
        (["judge", "--target", "127.0.0.1:1", "--generated", 5], 1, "UNAVAILABLE"),
        (["verifier", "math", "--target", "127.0.0.1:1", "--generated", 5], 1, "UNAVAILABLE"),
        (["judge", "--target", "127.0.0.1:1", "--generated", 5, "--audits-dir", "bad.jsonl/gates"], 1, "bad.jsonl/gates: Not a directory"),
        (["judge", "--target", "127.0.0.1:1", "--data", "bad.jsonl"], 2, "bad.jsonl:1: is no JSON"),
        (["verifier", "math", "--generated", 5, "--options", '{"a":' * 300 + "1" + "}" * 300], 2, "--options: is nested too deeply"),
        (["verifier", "math", "--generated", 5, "--options", "[" * 100_000], 2, "--options: is no JSON"),
        (["judge", "--model", "no/such/model/directory", "--generated", 5], 1, "no/such/model/directory"),
        (["verifier", "nope", "--generated", 5], 2, "verifier: 'nope' is unknown"),
        (["verifier", "math", "--generated", 5, "--options", "{"], 2, "--options: is no JSON"),
        (["verifier", "math", "--generated", 5, "--options", "[]"], 2, "must be a JSON object"),
        (["verifier", "math", "--generated", 5, "--options", '{"no": 1}'], 1, "options"),
    ],
)
async def test_mistakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[object], code: int, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.jsonl").write_text("nonsense")
    found, output = await audit(*arguments, "--out", tmp_path / "out")
    assert (found, message in output) == (code, True), output
    assert not (tmp_path / "out").exists()


async def test_a_service_of_another_kind_is_named(tmp_path: Path) -> None:
    toy = Toy()
    async with serving(toy) as client:
        code, output = await audit("verifier", "math", "--target", client.target, "--generated", 5, "--out", tmp_path / "out")
        assert (code, "another kind of service" in output) == (1, True), output
        assert toy.calls == 0


async def test_figures_are_shown_when_the_report_cannot_be_written(pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    toy = Toy()
    async with serving(toy) as client:
        arguments = ("judge", "--target", client.target, "--data", pairs, "--probe", "position")
        with monkeypatch.context() as early:
            early.setattr(Path, "write_bytes", full)
            code, output = await audit(*arguments, "--out", tmp_path / "a")
        assert (code, toy.calls) == (1, 0), "before anything is asked"
        assert "No space left on device" in output
        monkeypatch.setattr("rewardmesh.audit.report.files.markdown", lambda audit: full(tmp_path, b""))
        code, output = await audit(*arguments, "--out", tmp_path / "b")
    assert code == 1
    assert "position.logit" in output
    assert "report: not written" in output
    assert "No space left on device" in output
