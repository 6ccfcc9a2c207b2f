"""mesh.yaml: the services of a mesh, where their logs go, and how often a crashed one is started again.

    log_dir: runs/mesh
    services:
      checker: {kind: verifier, workers: 2}
      helpful: {kind: reward, model: runs/models/reward}
      gateway:
        kind: gateway
        port: 50050
        programs: [program.yaml]
        backends: {verifier: "${services.checker.address}", reward: "${services.helpful.address}"}

Fields beside `kind` are the service's own configuration. A service without a port gets a free one. Paths are relative to the folder
the mesh is started in.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from rewardmesh.cli.kinds import KINDS, config_class
from rewardmesh.cli.references import Addresses, substitute
from rewardmesh.serving.config import ConfigError, describe_errors, read_yaml


class RestartPolicy(BaseModel):
    """When a crashed service is started again."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_restarts: int = Field(5, ge=0, description="more crashes of one service than this within the window end the mesh")
    window_seconds: float = Field(60.0, gt=0)
    backoff_seconds: float = Field(0.5, ge=0, description="wait before the first restart; doubles with each crash in the window")


class ServiceEntry(BaseModel):
    """One service: its kind and its own configuration."""

    model_config = ConfigDict(extra="allow", frozen=True)

    kind: str
    host: str = "127.0.0.1"
    port: int = Field(0, ge=0, le=65535, description="0 picks a free one")
    metrics_port: int = Field(0, ge=0, le=65535, description="0 picks a free one")

    @field_validator("kind")
    @classmethod
    def _is_known(cls, kind: str) -> str:
        if kind not in KINDS:
            raise ValueError(f"must be one of {', '.join(KINDS)}")
        return kind

    @property
    def fields(self) -> dict[str, Any]:
        """The fields of the service's own configuration, without addresses."""
        return dict(self.model_extra or {})


class MeshFile(BaseModel):
    """A mesh as declared."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    services: dict[str, ServiceEntry] = Field(min_length=1)
    log_dir: Path = Path("runs/mesh")
    restart: RestartPolicy = RestartPolicy()
    source: str = Field("mesh", exclude=True, description="how messages name this document")

    @field_validator("services")
    @classmethod
    def _names_are_file_names(cls, services: dict[str, ServiceEntry]) -> dict[str, ServiceEntry]:
        for name in services:
            if not name.replace("-", "").replace("_", "").isalnum() or not name.isascii():
                raise ValueError(f"the name {name!r} may hold only letters, digits, - and _")
        return services

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a mesh file.

        Raises:
            ConfigError: with file and field of every mistake that can be seen without starting anything.
        """
        return cls.parse(read_yaml(path), str(path))

    @classmethod
    def parse(cls, document: Mapping[str, Any], source: str = "mesh") -> Self:
        """Check a mesh given as a mapping; as `load`."""
        try:
            mesh = cls.model_validate({**document, "source": source})
        except ValidationError as error:
            raise ConfigError(describe_errors(error, source, cls)) from error
        mesh.resolve(mesh.nowhere)
        return mesh

    @property
    def nowhere(self) -> dict[str, dict[str, str]]:
        """Addresses for every service before any is known: with them references can be checked."""
        return {name: {"address": "127.0.0.1:1", "metrics_address": "127.0.0.1:1"} for name in self.services}

    def resolve(self, addresses: Addresses) -> dict[str, dict[str, Any]]:
        """The configuration of each service with references to others replaced, checked against the service's own class.

        Raises:
            ConfigError: a reference to nothing, a field the service does not have, a value it does not take.
        """
        resolved, mistakes = {}, []
        for name, entry in self.services.items():
            try:
                resolved[name] = substitute(entry.fields, addresses, f"{self.source}: services.{name}")
                config_class(entry.kind)(host=entry.host, **resolved[name])
            except ConfigError as error:
                mistakes.append(str(error))
            except ValidationError as error:
                lines = describe_errors(error, "", config_class(entry.kind)).splitlines()
                mistakes += [f"{self.source}: services.{name}.{line.removeprefix(': ')}" for line in lines]
        if mistakes:
            raise ConfigError("\n".join(mistakes))
        return resolved
