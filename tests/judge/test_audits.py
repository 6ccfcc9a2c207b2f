"""With `require_audit` a judge answers only with what has passed its audit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from judge.conftest import Serve
from rewardmesh.client import CallFailed, pair
from rewardmesh.engine.loading import LoadError
from rewardmesh.judge import JudgeConfig

PAIR = pair("p", "q", "19", "20")


def write_audit(directory: Path, judged: str, /, **changes: Any) -> Path:
    figures = [
        {"name": "position_bias", "value": 0.02, "threshold": 0.05, "met": True},
        {"name": "calibration", "value": None, "threshold": 0.1, "met": True},
    ]
    audit = {"fingerprint": judged, "model": "tiny", "template": "short", "version": 1, "passed": True, "figures": figures}
    file = directory / f"{judged}.json"
    file.write_text(json.dumps(audit | changes))
    return file


@pytest.fixture
async def judged(serve: Serve) -> str:
    """Fingerprint of the judge with its default template."""
    async with serve() as client:
        [result] = await client.compare([PAIR])
    fingerprint: str = result.message.provenance.model.fingerprint
    return fingerprint


async def test_an_audited_judge_starts_with_its_template_alone(serve: Serve, judged: str, tmp_path: Path) -> None:
    write_audit(tmp_path, judged)
    async with serve(require_audit=True, audits=str(tmp_path)) as client:
        [result] = await client.compare([PAIR])
        assert result.value is not None
        with pytest.raises(CallFailed, match=r"FAILED_PRECONDITION.*'with-tie' .*was not audited.*rewardmesh audit judge"):
            await client.compare([PAIR], template="with-tie")


FAILED = [
    {"name": "position_bias", "value": 0.31, "threshold": 0.05, "met": False},
    {"name": "order", "value": None, "threshold": 1, "met": False},
]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"passed": False, "figures": FAILED}, r"did not pass: position_bias is 0.31 \(threshold 0.05\), order is not measured"),
        ({"figures": FAILED}, "did not pass"),
        ({"figures": []}, "has no figures"),
        ({"fingerprint": "0" * 16}, "is of another judge"),
        ({"figures": 3}, "figures"),
    ],
)
async def test_a_judge_that_has_not_passed_does_not_start(
    serve: Serve, judged: str, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    write_audit(tmp_path, judged, **changes)
    with pytest.raises(LoadError, match=words):
        async with serve(require_audit=True, audits=str(tmp_path)):
            pass


async def test_versions_pass_the_gate_when_loaded_and_when_activated(
    serve: Serve, judged: str, tmp_path: Path, make_model: Callable[..., Path]
) -> None:
    other = make_model("causal", max_position_embeddings=4096, seed=9)
    async with serve(model=str(other)) as client:
        [result] = await client.compare([PAIR])
    second = write_audit(tmp_path, result.message.provenance.model.fingerprint)
    text = second.read_text()
    second.unlink()
    write_audit(tmp_path, judged)
    async with serve(require_audit=True, audits=str(tmp_path)) as client:
        with pytest.raises(CallFailed, match=r"FAILED_PRECONDITION.*was not audited: there is no .*rewardmesh audit judge"):
            await client.load_version(2, str(other))
        second.write_text(text)
        await client.load_version(2, str(other))
        second.unlink()
        with pytest.raises(CallFailed, match=r"FAILED_PRECONDITION.*was not audited"):
            await client.activate_version(2)
        second.write_text(text)
        await client.activate_version(2)
        [after] = await client.compare([PAIR])
    assert after.message.provenance.model.version == 2


def test_the_gate_needs_a_directory() -> None:
    with pytest.raises(ValueError, match="audits: is empty"):
        JudgeConfig(model="m", require_audit=True)
