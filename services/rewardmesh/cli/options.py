"""A command from a configuration class: one option for each field, so that flags cannot drift from the environment and YAML."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import typer
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from rewardmesh.serving.config import ServerConfig

C = TypeVar("C", bound=ServerConfig)


def config_command(config_type: type[C], run: Callable[[C], None], help_text: str) -> typer.Typer:
    """A command with `--config FILE` and an option for every field of `config_type`.

    `run` gets the loaded configuration. Lists are repeated options, mappings repeated KEY=VALUE. Options that are not given are left
    to the environment, the file and the field's default; ConfigError passes through.
    """

    def command(**given: Any) -> None:
        path = given.pop("config")
        flags = {name: _value(value, config_type.model_fields[name]) for name, value in given.items() if value is not None and value != []}
        run(config_type.load(flags, path))

    parameters = [_parameter(name, field, config_type) for name, field in config_type.model_fields.items()]
    config = typer.Option("--config", help="YAML file with any of these fields", exists=True, dir_okay=False)
    first = inspect.Parameter("config", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[Path | None, config])
    command.__signature__ = inspect.Signature([first, *parameters])  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in (first, *parameters)}
    app = typer.Typer(add_completion=False)
    app.command(help=help_text)(command)
    return app


def _parameter(name: str, field: FieldInfo, config_type: type[ServerConfig]) -> inspect.Parameter:
    flag = "--" + name.replace("_", "-")
    kind = _plain_type(field.annotation)
    option = typer.Option(
        f"{flag}/--no-{flag[2:]}" if kind is bool else flag,
        help=f"{field.description or ''}{_default(field)}",
        metavar="KEY=VALUE" if get_origin(field.annotation) is dict else None,
        show_default=False,
        rich_help_panel="Server" if name in ServerConfig.model_fields else config_type.__name__.removesuffix("Config"),
    )
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option])


def _plain_type(annotation: Any) -> Any:
    """The type a command line gives for a field's type."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return _plain_type(next(each for each in arguments if each is not type(None)))
    if origin in (list, tuple, dict):
        return list[str]
    if origin is Literal:
        return annotation
    return annotation if annotation in (bool, int, float) else str


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return " (required)"
    value = field.default if field.default is not PydanticUndefined else None
    if value in (None, "", [], (), {}):
        return ""
    return f" (default: {value})"


def _value(value: Any, field: FieldInfo) -> Any:
    """What the field takes: a mapping for KEY=VALUE pairs."""
    if get_origin(field.annotation) is not dict:
        return value
    pairs: Mapping[str, str] = dict(_pair(each) for each in value)
    return pairs


def _pair(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise typer.BadParameter(f"{text!r} is not KEY=VALUE")
    return key, value
