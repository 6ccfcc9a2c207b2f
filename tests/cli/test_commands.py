"""The command line as a whole: it answers at once, and says what is missing."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rewardmesh.cli.app import app
from rewardmesh.cli.missing import missing_dependency, requirements

COMMANDS = ("up", "status", "serve", "score", "train", "report", "doctor", "version")


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("arguments", [["--help"], ["serve", "--help"], ["serve", "verifier", "--help"], ["train", "--help"], ["version"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    heavy = ("torch", "transformers", "pandas", "pyarrow", "matplotlib", *(() if "verifier" in arguments else ("grpc",)))
    code = (
        f"import sys; sys.argv = ['rewardmesh', *{arguments!r}]\nfrom rewardmesh.cli import main\n"
        f"try: main()\nexcept SystemExit as end: assert not end.code\nprint('loaded', [name for name in {heavy!r} if name in sys.modules])"
    )
    result = python(code)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "loaded []"


def test_commands(runner: CliRunner) -> None:
    text = runner.invoke(app, ["--help"]).output
    assert all(command in text for command in COMMANDS)
    assert runner.invoke(app, ["version"]).output.strip() == metadata.version("rewardmesh")


@pytest.mark.parametrize(
    ("module", "arguments", "command"),
    [
        ("typer", ["--help"], "pip install 'rewardmesh[serve]'"),
        ("yaml", ["serve", "verifier", "--help"], "pip install 'rewardmesh[serve]'"),
        ("grpc_health", ["serve", "verifier", "--help"], "pip install 'rewardmesh[serve]'"),
        ("pyarrow", ["report", "."], "pip install 'rewardmesh[train]'"),
        ("google.protobuf", ["serve", "verifier", "--help"], "pip install 'rewardmesh'"),
        ("grpc", ["serve", "verifier", "--help"], "pip install 'rewardmesh'"),
    ],
)
def test_missing_package_is_one_line(module: str, arguments: list[str], command: str) -> None:
    code = f"import sys; sys.modules[{module!r}] = None; sys.argv = ['rewardmesh', *{arguments!r}]\nfrom rewardmesh.cli import main; main()"
    result = python(code)
    assert result.returncode == 1
    assert len(result.stderr.strip().splitlines()) == 1
    assert "is not installed; run: " in result.stderr
    assert command in result.stderr


def test_other_missing_modules_are_bugs() -> None:
    assert missing_dependency(ModuleNotFoundError("no", name="rewardmesh_extra_things")) is None
    assert next(iter(requirements())) == ""


def test_doctor(runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    table = runner.invoke(app, ["doctor"], env={"COLUMNS": "160"})
    assert table.exit_code == 0
    result = runner.invoke(app, ["doctor", "--json"])
    findings = {finding["name"]: finding for finding in json.loads(result.stdout)}
    assert findings["grpcio"]["area"] == "base"
    assert findings["torch"]["area"] == "serve"
    assert findings["matplotlib"]["area"] == "train"
    assert {"python", "torch device", "free disk", "free memory", "loopback port", "buf", "kubectl"} <= findings.keys()
    original = metadata.version

    def version(name: str) -> str:
        if name in {"protobuf", "pyarrow"}:
            raise metadata.PackageNotFoundError(name)
        return original(name)

    monkeypatch.setattr(metadata, "version", version)
    broken = runner.invoke(app, ["doctor", "--json"])
    findings = {finding["name"]: finding for finding in json.loads(broken.stdout)}
    assert broken.exit_code == 1
    assert (findings["protobuf"]["verdict"], findings["protobuf"]["remedy"]) == ("missing", "pip install 'rewardmesh'")
    assert (findings["pyarrow"]["verdict"], findings["pyarrow"]["remedy"]) == ("absent", "pip install 'rewardmesh[train]'")


def test_recipe_mistakes(runner: CliRunner, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("services: {gateway: '${services.gateway.address}'}", encoding="utf-8")
    result = runner.invoke(app, ["train", str(recipe)])
    assert result.exit_code == 2
    assert "recipe.yaml.services.gateway" in result.stderr.replace(": ", ".")
    assert "give one with --mesh" in result.stderr
    recipe.write_text("stepz: 3", encoding="utf-8")
    result = runner.invoke(app, ["train", str(recipe), "--steps", "3"])
    assert result.exit_code == 2
    assert "recipe.yaml: stepz: unknown field" in result.stderr


def test_report_of_a_folder(runner: CliRunner, tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "reward_mean": 0.5}\n', encoding="utf-8")
    result = runner.invoke(app, ["report", str(tmp_path)])
    assert result.exit_code == 0
    assert result.stdout.strip() == str(tmp_path / "report.html")
    assert (tmp_path / "report.html").is_file()
    assert runner.invoke(app, ["report", str(tmp_path / "no")]).exit_code == 2
