"""Mistakes in a mesh file are named with file and path, all at once, before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from rewardmesh.cli.app import app
from rewardmesh.cli.mesh_file import MeshFile
from rewardmesh.cli.references import references, substitute
from rewardmesh.serving import ConfigError


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("services: {a: {kind: oracle}}", "mesh.yaml: services.a.kind: must be one of reward, judge"),
        ("services: {a: {kind: verifier, wrokers: 2}}", "mesh.yaml: services.a.wrokers: unknown field"),
        ("services: {a: {kind: verifier, workers: no}}", "mesh.yaml: services.a.workers: "),
        ("services: {a: {kind: verifier, port: 70000}}", "mesh.yaml: services.a.port: "),
        ("services: {a/b: {kind: verifier}}", "the name 'a/b' may hold only"),
        ("services: {}", "mesh.yaml: services: "),
        ("service: {}", "mesh.yaml: service: unknown field"),
        ("services: [a, b", "mesh.yaml:1:16: "),
        (
            "services: {a: {kind: verifier, verifier_packages: ['${services.b.address}']}}",
            "mesh.yaml: services.a.verifier_packages[0]: ${services.b.address}: no service is called 'b'; there are a",
        ),
        (
            "services: {a: {kind: verifier, replica: '${services.a.pid}'}}",
            "mesh.yaml: services.a.replica: ${services.a.pid} is not understood",
        ),
        ("services: {a: {kind: verifier}}\nrestart: {max_restarts: -1}", "mesh.yaml: restart.max_restarts: "),
    ],
)
def test_mistakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mesh.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        MeshFile.load(Path("mesh.yaml"))
    assert message in str(caught.value)
    result = CliRunner().invoke(app, ["up", "mesh.yaml"])
    assert result.exit_code == 2
    assert message in result.stderr


def test_all_mistakes_at_once() -> None:
    services = {"a": {"kind": "verifier", "workers": 0}, "b": {"kind": "verifier", "x": 1}}
    with pytest.raises(ConfigError) as caught:
        MeshFile.parse({"services": services})
    assert "services.a.workers" in str(caught.value)
    assert "services.b.x: unknown field" in str(caught.value)


def test_references_are_replaced() -> None:
    places = {"a": {"address": "127.0.0.1:5", "metrics_address": "127.0.0.1:6"}}
    value = {"x": ["dns:${services.a.address}", 3], "y": ("${services.a.metrics_address}",)}
    assert substitute(value, places, "w") == {"x": ["dns:127.0.0.1:5", 3], "y": ["127.0.0.1:6"]}
    assert set(references(value)) == {"a"}


def test_reference_without_a_mesh() -> None:
    with pytest.raises(ConfigError, match=r"w\.x: .* needs a mesh"):
        substitute({"x": "${services.a.address}"}, {}, "w")
