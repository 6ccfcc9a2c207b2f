"""The template of a judge that a command starts for its own run: a file, or the name of a built-in one."""

from __future__ import annotations

from pathlib import Path

from rewardmesh.serving.config import ConfigError, read_yaml


def is_file(template: str) -> bool:
    """Whether a file is meant."""
    return template.endswith((".yaml", ".yml")) or Path(template).is_file()


def template_name(template: str) -> str:
    """What a template file calls itself; a name is itself.

    Raises:
        ConfigError: a file that cannot be read or has no name.
    """
    if not is_file(template):
        return template
    name = read_yaml(Path(template)).get("name")
    if not isinstance(name, str):
        raise ConfigError(f"{template}: name: must be a text")
    return name
