"""Typed configuration: flags, environment and YAML of every server come from one object.

Precedence: flags (or keyword arguments), then `REWARDMESH_<SERVICE>_<FIELD>` in the environment, then YAML, then defaults.
A mistake is reported as `file: path.to.field: what is wrong`, all mistakes at once.
"""

from __future__ import annotations

import difflib
import os
import socket
from collections.abc import Hashable, Iterable, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Literal, Self, get_args

import yaml
from pydantic import BaseModel, Field, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

_document: ContextVar[Mapping[str, Any]] = ContextVar("document")


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names file and field."""


class BaseConfig(BaseSettings):
    """A configuration object that loads itself from flags, environment and YAML."""

    model_config = SettingsConfigDict(env_prefix="REWARDMESH_", env_nested_delimiter="__", extra="forbid", frozen=True)

    @classmethod
    def load(cls, flags: Mapping[str, Any] | None = None, path: Path | None = None) -> Self:
        """Read the configuration.

        Args:
            flags: values that override everything else; None values are ignored.
            path: YAML file; None for none.

        Raises:
            ConfigError: unreadable or corrupt file, unknown field, wrong type or value.
        """
        document = read_yaml(path) if path else {}
        token = _document.set(document)
        try:
            return cls(**{key: value for key, value in (flags or {}).items() if value is not None})
        except ValidationError as error:
            raise ConfigError(describe_errors(error, str(path) if path else "configuration", cls)) from error
        except SettingsError as error:  # a list or mapping in the environment that is no JSON
            raise ConfigError(f"environment: {error}: {error.__cause__}") from error
        finally:
            _document.reset(token)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Order the sources: keyword arguments, environment, YAML."""
        document = InitSettingsSource(settings_cls, init_kwargs=dict(_document.get({})))
        return init_settings, env_settings, document


class ServerConfig(BaseConfig):
    """What every server can be told."""

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(0, ge=0, le=65535, description="gRPC port; 0 picks a free one")
    metrics_port: int = Field(0, ge=0, le=65535, description="Prometheus port; 0 picks a free one")
    replica: str = Field(default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}", description="name of this replica in replies")
    drain_seconds: float = Field(30.0, ge=0, description="longest time in-flight work may take after SIGTERM")
    max_message_bytes: int = Field(64 * 2**20, ge=1024, description="largest message accepted or sent")
    max_connection_age_seconds: float = Field(300.0, gt=0, description="after this, clients reconnect and so find new replicas")
    log_format: Literal["console", "json"] = Field("console", description="how log lines are written")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least severe level that is logged")
    otlp_endpoint: str | None = Field(None, description="OTLP gRPC collector for traces, for example http://127.0.0.1:4317")


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping; a mistake, such as a key that is given twice, raises ConfigError with file, line and column."""
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 (byte {error.start})") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        raise ConfigError(f"{where}: {error.problem or 'is not YAML'}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: {error}") from error
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: must be a mapping of fields, is a {type(document).__name__}")
    for key in document:
        if not isinstance(key, str):
            raise ConfigError(f"{path}: {key!r}: is no field name")
    return document


class _Loader(yaml.SafeLoader):
    """Refuses a key that is given twice, of which YAML readers silently keep one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        given: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in given:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is given twice; keep one of them", key.start_mark)
            if isinstance(key, yaml.ScalarNode):
                given.add(key.value)
        return super().construct_mapping(node, deep)


def describe_errors(error: ValidationError, source: str, model: type[BaseModel] | None = None) -> str:
    """One line for each mistake: `source: field.path: message (got value)`; with `model`, an unknown field's nearest known name."""
    lines = []
    for item in error.errors(include_url=False):
        path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in item["loc"]).lstrip(".")
        if item["type"] == "value_error" and not path:  # of the document as a whole: the message names its fields itself
            lines += [f"{source}: {line}" for line in str(item["ctx"]["error"]).splitlines()]
            continue
        message = "unknown field" + _nearest_field(model, item["loc"]) if item["type"] == "extra_forbidden" else said(item)
        got = "" if item["type"] in {"missing", "extra_forbidden"} else f" (got {str(item['input'])[:80]!r})"
        lines.append(f"{source}: {path or 'document'}: {message}{got}")
    return "\n".join(lines)


def said(item: ErrorDetails) -> str:
    """What is wrong, of one mistake that pydantic found."""
    match item["type"]:
        case "dict_type" | "model_type":
            return "must be a mapping of fields"
        case "tuple_type" | "list_type":
            return "must be a list"
    return item["msg"].removeprefix("Value error, ")


def nearest(name: str, known: Iterable[str]) -> str:
    """ " (did you mean 'x'?)" for the known name that is most like `name`; empty when none is."""
    found = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {found[0]!r}?)" if found else ""


def _nearest_field(model: type[BaseModel] | None, location: tuple[int | str, ...]) -> str:
    """The hint for the unknown field at the end of `location`, a path inside `model`."""
    for part in location[:-1]:
        if model is None or part not in model.model_fields:
            return ""
        inside = [model.model_fields[str(part)].annotation]
        inside += get_args(inside[0])
        model = next((kind for kind in inside if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
    return nearest(str(location[-1]), model.model_fields) if model else ""
