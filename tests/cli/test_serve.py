"""`serve`: options from the configuration class, clean starts and ends."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field
from pydantic_settings import SettingsConfigDict
from typer.testing import CliRunner

from rewardmesh.cli.app import app
from rewardmesh.cli.kinds import KINDS
from rewardmesh.cli.options import config_command
from rewardmesh.cli.ports import free_port
from rewardmesh.serving import ServerConfig

from .conftest import Start, alive, family, interrupt, serving, until


class Example(ServerConfig):
    model_config = SettingsConfigDict(env_prefix="REWARDMESH_EXAMPLE_")

    model: str = Field(description="a model")
    colour: Literal["red", "blue"] = Field("red", description="a choice")
    fast: bool = Field(False, description="a switch")
    names: list[str] = Field(default_factory=list, description="several")
    weights: dict[str, float] = Field(default_factory=dict, description="by name")
    places: tuple[Path, ...] = ()
    limit: Annotated[int, Field(ge=1)] | None = None


def load(runner: CliRunner, *arguments: str, code: int = 0) -> Example:
    loaded: list[Example] = []
    result = runner.invoke(config_command(Example, loaded.append, "An example."), list(arguments), catch_exceptions=False)
    assert result.exit_code == code, result.output
    return loaded[0] if loaded else Example(model="")


def test_every_kind_of_field(runner: CliRunner) -> None:
    flags = "--model m --colour blue --fast --names a --names b --weights x=1.5 --weights y=-2 --places p/q --limit 3 --port 5"
    config = load(runner, *flags.split())
    assert (config.model, config.colour, config.fast, config.names) == ("m", "blue", True, ["a", "b"])
    assert (config.weights, config.places, config.limit, config.port) == ({"x": 1.5, "y": -2.0}, (Path("p/q"),), 3, 5)


def test_flags_over_environment_over_file(runner: CliRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("{model: file, colour: blue, fast: true, port: 1}", encoding="utf-8")
    monkeypatch.setenv("REWARDMESH_EXAMPLE_COLOUR", "red")
    monkeypatch.setenv("REWARDMESH_EXAMPLE_PORT", "2")
    config = load(runner, "--config", str(path), "--port", "3", "--no-fast")
    assert (config.model, config.colour, config.fast, config.port) == ("file", "red", False, 3)


def test_help_tells_descriptions_choices_and_defaults(runner: CliRunner) -> None:
    result = runner.invoke(config_command(Example, print, "An example."), ["--help"], terminal_width=140)
    for text in ("a choice (default: red)", "red|blue", "KEY=VALUE", "--no-fast", "a model (required)", "(default: 127.0.0.1)"):
        assert text in result.output


def test_wrong_pair_and_choice(runner: CliRunner) -> None:
    load(runner, "--model", "m", "--weights", "x", code=2)
    load(runner, "--model", "m", "--colour", "green", code=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workers", "0"], "configuration: workers: Input should be greater than or equal to 1"),
        (["--config", "bad.yaml"], "bad.yaml: wrokers: unknown field"),
        (["--config", "torn.yaml"], "torn.yaml:1:11: "),
    ],
)
def test_configuration_mistakes(
    runner: CliRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.yaml").write_text("wrokers: 1", encoding="utf-8")
    Path("torn.yaml").write_text("workers: [", encoding="utf-8")
    result = runner.invoke(app, ["serve", "verifier", *arguments])
    assert result.exit_code == 2
    assert message in result.stderr


def test_unknown_kind_and_list(runner: CliRunner) -> None:
    assert runner.invoke(app, ["serve", "oracle"]).exit_code == 2
    listed = runner.invoke(app, ["serve", "--help"]).output
    assert all(kind in listed for kind in KINDS)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_starts_serves_and_drains(start: Start, number: int) -> None:
    port = free_port("127.0.0.1", set())
    process = start("serve", "verifier", "--port", port, "--workers", 1)
    until(lambda: serving(f"127.0.0.1:{port}"), "the verifier serves")
    pids = family(process.pid)
    code, _, err = interrupt(process, number, timeout_s=10)
    assert code == 0, err
    assert "draining" in err
    assert not any(map(alive, pids))


def test_taken_port(start: Start) -> None:
    port = free_port("127.0.0.1", set())
    first = start("serve", "verifier", "--port", port, "--workers", 1)
    until(lambda: serving(f"127.0.0.1:{port}"), "the verifier serves")
    second = start("serve", "verifier", "--port", port, "--workers", 1)
    _, err = second.communicate(timeout=30)
    assert second.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in err
    assert "Traceback" not in err
    interrupt(first)


@pytest.mark.slow
def test_missing_weights(start: Start, tmp_path: Path) -> None:
    process = start("serve", "reward", "--model", tmp_path / "nowhere")
    _, err = process.communicate(timeout=90)
    assert process.returncode == 1
    assert re.search("rewardmesh: serve reward: .*nowhere", err)
    assert "Traceback" not in err
