"""`${services.NAME.address}` in mesh files and recipes: where a service of the mesh will be."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from rewardmesh.serving.config import ConfigError

_REFERENCE = re.compile(r"\$\{([^}]*)\}")
_SERVICE = re.compile(r"services\.([^.]+)\.(address|metrics_address)")

Addresses = Mapping[str, Mapping[str, str]]
"""By service: its "address" and "metrics_address", each "host:port"."""


def substitute(value: Any, addresses: Addresses, where: str) -> Any:
    """`value` (nested lists and mappings too) with references in its strings replaced.

    Raises:
        ConfigError: a reference to nothing; the message begins with `where` and the path inside the value.
    """
    if isinstance(value, Mapping):
        return {key: substitute(each, addresses, f"{where}.{key}") for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [substitute(each, addresses, f"{where}[{index}]") for index, each in enumerate(value)]
    if isinstance(value, str):
        return _REFERENCE.sub(lambda match: _address(match[1], addresses, where), value)
    return value


def references(value: Any) -> Iterator[str]:
    """Names of the services that a value refers to."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for each in value:
            yield from references(each)
    elif isinstance(value, str):
        for match in _REFERENCE.finditer(value):
            if found := _SERVICE.fullmatch(match[1]):
                yield found[1]


def _address(reference: str, addresses: Addresses, where: str) -> str:
    matched = _SERVICE.fullmatch(reference)
    if not matched:
        forms = "${services.NAME.address} or ${services.NAME.metrics_address}"
        raise ConfigError(f"{where}: ${{{reference}}} is not understood; write {forms}")
    if not addresses:
        raise ConfigError(f"{where}: ${{{reference}}} needs a mesh to refer to; give one with --mesh")
    if matched[1] not in addresses:
        raise ConfigError(f"{where}: ${{{reference}}}: no service is called {matched[1]!r}; there are {', '.join(sorted(addresses))}")
    return addresses[matched[1]][matched[2]]
