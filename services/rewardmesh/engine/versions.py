"""The versions of a model in memory, and which one answers.

Activation swaps one reference: work that has begun keeps the version it took, and it is freed when the last user lets go.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from rewardmesh.engine.interface import ServedModel
from rewardmesh.serving.errors import failed_precondition, invalid_argument, not_found
from rewardmesh.serving.metrics import MODEL_INFO
from rewardmesh.v1 import common_pb2 as pb

Loader = Callable[[str, int], ServedModel]
"""(path, version) -> model; raises LoadError."""


class ModelStore:
    """All versions of one named model; safe to use from several threads."""

    def __init__(self, service: str, first: ServedModel, loader: Loader) -> None:
        self.service = service
        self.name = first.name
        self._loader = loader
        self._lock = threading.Lock()
        self._versions = {first.version: first}
        self._active = first
        self._announce(first, 1)

    @property
    def active(self) -> ServedModel:
        """The version that answers now."""
        return self._active

    def versions(self) -> list[ServedModel]:
        """All versions in memory, ascending."""
        with self._lock:
            return [self._versions[number] for number in sorted(self._versions)]

    def resolve(self, wanted: pb.ModelRef | None) -> ServedModel:
        """The version a request asks for; empty fields mean the active one.

        Raises:
            CallError: NOT_FOUND for another name or a version not in memory, FAILED_PRECONDITION for another fingerprint.
        """
        if wanted is None or not (wanted.name or wanted.version or wanted.fingerprint):
            return self._active
        self.check_name(wanted.name)
        with self._lock:
            model = self._versions.get(wanted.version) if wanted.version else self._active
            known = [str(number) for number in sorted(self._versions)]
        if model is None:
            raise not_found(f"version of model {self.name!r}", str(wanted.version), known)
        if wanted.fingerprint and wanted.fingerprint != model.fingerprint:
            raise failed_precondition(
                f"model {self.name!r} version {model.version} has fingerprint {model.fingerprint}, not {wanted.fingerprint}"
            )
        return model

    def check_name(self, name: str) -> None:
        """Raise NOT_FOUND unless the name is empty or this model's."""
        if name and name != self.name:
            raise not_found("model", name, [self.name])

    def load(self, path: str, version: int) -> ServedModel:
        """Read a version beside the active one (slow: call it off the event loop).

        Raises:
            CallError: INVALID_ARGUMENT for a version that is not greater than all in memory.
            LoadError: the directory cannot be served.
        """
        with self._lock:
            self._check_newest(version)
        model = self._loader(path, version)
        with self._lock:
            self._check_newest(version)  # another call may have loaded one meanwhile
            self._versions[version] = model
        return model

    def activate(self, version: int, expected: int | None) -> tuple[ServedModel, ServedModel]:
        """Switch atomically; returns (previous, active).

        Raises:
            CallError: NOT_FOUND for a version not in memory, FAILED_PRECONDITION when another than `expected` is active.
        """
        with self._lock:
            previous = self._active
            if expected is not None and expected != previous.version:
                raise failed_precondition(f"version {previous.version} of {self.name!r} is active, not {expected}")
            if version not in self._versions:
                raise not_found(f"version of model {self.name!r}", str(version), map(str, self._versions))
            self._active = self._versions[version]
        if previous is not self._active:
            previous.trim()
        self._announce(previous, 0)
        self._announce(self._active, 1)
        return previous, self._active

    def unload(self, version: int) -> None:
        """Forget a version; in-flight work keeps it until it is done.

        Raises:
            CallError: FAILED_PRECONDITION for the active version, NOT_FOUND for one not in memory.
        """
        with self._lock:
            if version == self._active.version:
                raise failed_precondition(f"version {version} of {self.name!r} is active; activate another first")
            if self._versions.pop(version, None) is None:
                raise not_found(f"version of model {self.name!r}", str(version), map(str, self._versions))

    def _check_newest(self, version: int) -> None:
        newest = max(self._versions)
        if version <= newest:
            raise invalid_argument("version", f"{version} must be greater than the newest in memory, {newest}")

    def _announce(self, model: ServedModel, value: int) -> None:
        labels = (self.service, model.name, str(model.version), model.fingerprint)
        if value:
            MODEL_INFO.labels(*labels).set(1)
        else:
            MODEL_INFO.remove(*labels)


def model_ref(model: ServedModel) -> pb.ModelRef:
    """How a version is named on the wire."""
    return pb.ModelRef(name=model.name, version=model.version, fingerprint=model.fingerprint)
