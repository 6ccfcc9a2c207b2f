"""Which extra brings a package that is not installed, read from the metadata of the installed distribution."""

from __future__ import annotations

import re
from importlib import metadata

DISTRIBUTION = "rewardmesh"

# Import names that differ from the name of the distribution that brings them.
_DISTRIBUTIONS = {
    "google.protobuf": "protobuf",
    "google.rpc": "googleapis-common-protos",
    "grpc": "grpcio",
    "grpc_health": "grpcio-health-checking",
    "grpc_reflection": "grpcio-reflection",
    "grpc_status": "grpcio-status",
    "opentelemetry": "opentelemetry-sdk",
    "prometheus_client": "prometheus-client",
    "yaml": "pyyaml",
}


def missing_dependency(error: ModuleNotFoundError) -> str | None:
    """One line with the command that installs what is missing; None when the module is none of ours to install."""
    package = (error.name or "").partition(".")[0]
    two_levels = ".".join((error.name or "").split(".")[:2])
    wanted = _DISTRIBUTIONS.get(two_levels) or _DISTRIBUTIONS.get(package) or normal(package)
    for extra, names in requirements().items():
        if wanted in names:
            where = f"{DISTRIBUTION}[{extra}]" if extra else DISTRIBUTION
            return f"the package {wanted} is not installed; run: pip install '{where}'"
    return None


def requirements() -> dict[str, list[str]]:
    """Distribution names by extra, "" for the base, which comes first; then the extra with the fewest.

    Metadata list an extra that includes another one with all of the other's packages: the smallest that brings a package comes first.
    """
    found: dict[str, list[str]] = {"": []}
    for line in metadata.requires(DISTRIBUTION) or []:
        matched = re.match(r"[A-Za-z0-9._-]+", line)
        extra = re.search(r"""extra\s*==\s*['"]([^'"]+)['"]""", line)
        if matched and normal(matched[0]) != DISTRIBUTION:
            found.setdefault(extra[1] if extra else "", []).append(normal(matched[0]))
    return dict(sorted(found.items(), key=lambda item: (item[0] != "", len(item[1]), item[0])))


def normal(name: str) -> str:
    """The name of a distribution as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()
