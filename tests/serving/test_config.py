"""Configuration: one object, four sources, and mistakes that say where they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from rewardmesh.serving import ConfigError, ServerConfig


class ToyConfig(ServerConfig):
    """A server with a field of each kind."""

    model_config = SettingsConfigDict(env_prefix="REWARDMESH_TOY_", frozen=True, extra="forbid")

    label: str = "default"
    names: list[str] = Field(default_factory=list)
    weights: dict[str, float] = Field(default_factory=dict)


@pytest.fixture
def document(tmp_path: Path) -> Path:
    return tmp_path / "toy.yaml"


def mistakes(path: Path | None, flags: dict[str, Any] | None = None) -> str:
    with pytest.raises(ConfigError) as error:
        ToyConfig.load(flags, path)
    return str(error.value)


def test_precedence(document: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ToyConfig.load().label == "default"
    document.write_text("label: yaml\nport: 1\n")
    assert ToyConfig.load(None, document).label == "yaml"
    monkeypatch.setenv("REWARDMESH_TOY_LABEL", "environment")
    config = ToyConfig.load({}, document)
    assert (config.label, config.port) == ("environment", 1)
    assert ToyConfig.load({"label": "flag"}, document).label == "flag"
    assert ToyConfig.load({"label": None}, document).label == "environment", "a flag that was not given is no value"
    assert ToyConfig().label == "environment", "a file that was read before leaves nothing behind"


def test_another_service_s_environment_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REWARDMESH_REWARD_LABEL", "theirs")
    assert ToyConfig.load().label == "default"


def test_structured_fields_from_every_source(document: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document.write_text("names: [a, b]\nweights: {a: 1}\n")
    assert ToyConfig.load(None, document).weights == {"a": 1.0}
    monkeypatch.setenv("REWARDMESH_TOY_NAMES", '["c"]')
    assert ToyConfig.load(None, document).names == ["c"]


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        ToyConfig().port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("label: [a\nport: 1\n", ":2:5: "),
        ("label: a\n  port: 1\n", ":2:7: "),
        ("a: b: c\n", ":1:5: "),
        ("\tlabel: a\n", ":1:1: "),
        ("label: &x *x\n", ""),
        ("label: a\nport: 1\nlabel: b\n", ":3:1: 'label' is given twice"),
        ("label: a\nnested: {a: 1, a: 2}\n", ":2:16: 'a' is given twice"),
    ],
)
def test_corrupt_yaml_names_line_and_column(document: Path, text: str, where: str) -> None:
    document.write_text(text)
    assert mistakes(document).startswith(f"{document}{where}")


@pytest.mark.parametrize("text", ["- a\n", "just words\n", "3\n"])
def test_yaml_that_is_no_mapping(document: Path, text: str) -> None:
    document.write_text(text)
    assert "must be a mapping of fields" in mistakes(document)


def test_an_empty_file_is_no_mistake(document: Path) -> None:
    document.write_text("# nothing\n")
    assert ToyConfig.load(None, document).label == "default"


def test_files_that_cannot_be_read(document: Path) -> None:
    assert mistakes(document) == f"{document}: cannot be read: No such file or directory"
    document.write_bytes(b"label: \xff\n")
    assert mistakes(document) == f"{document}: is not UTF-8 (byte 7)"


def test_all_mistakes_are_listed_with_their_fields(document: Path) -> None:
    document.write_text("prot: 1\nport: many\nweights: {a: x}\nlog_format: xml\nmetrics_port: 70000\n")
    lines = mistakes(document).split("\n")
    assert all(line.startswith(f"{document}: ") for line in lines)
    described = {line.split(": ")[1]: line for line in lines}
    assert set(described) == {"prot", "port", "weights.a", "log_format", "metrics_port"}
    assert "unknown field" in described["prot"]
    assert "integer" in described["port"]
    assert "(got 'many')" in described["port"]
    assert "'console' or 'json'" in described["log_format"]


def test_a_key_that_is_no_string(document: Path) -> None:
    document.write_text("1: a\n")
    assert mistakes(document).startswith(f"{document}: ")


def test_a_mistake_in_a_flag() -> None:
    assert "configuration: drain_seconds" in mistakes(None, {"drain_seconds": -1})


def test_a_list_in_the_environment_that_is_no_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REWARDMESH_TOY_NAMES", "a,b")
    message = mistakes(None)
    assert "environment" in message
    assert "names" in message
