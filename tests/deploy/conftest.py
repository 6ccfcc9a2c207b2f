"""Renders every Kustomize variant once per session and gives tests a small view of the result."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
VARIANTS = ("base", "overlays/local", "overlays/gpu")

Resource = dict[str, Any]


@dataclass(frozen=True)
class Workload:
    """A Deployment or Job with the pod it makes."""

    kind: str
    component: str
    replicas: int
    labels: dict[str, str]
    pod: dict[str, Any]

    @property
    def containers(self) -> list[dict[str, Any]]:
        """Init containers and containers."""
        return [*self.pod.get("initContainers", []), *self.pod["containers"]]

    @property
    def is_service(self) -> bool:
        """True for what answers calls, False for the trainer."""
        return self.kind == "Deployment"

    def port(self, name: str) -> int | None:
        """Number of the named container port."""
        return next((port["containerPort"] for item in self.containers for port in item.get("ports", []) if port["name"] == name), None)


@dataclass(frozen=True)
class Manifests:
    """One rendered variant."""

    variant: str
    resources: tuple[Resource, ...]

    def of(self, kind: str) -> list[Resource]:
        """Every resource of the kind."""
        return [item for item in self.resources if item["kind"] == kind]

    @cached_property
    def workloads(self) -> list[Workload]:
        """Every Deployment and Job."""
        return [
            Workload(
                kind=item["kind"],
                component=item["metadata"]["labels"]["app.kubernetes.io/component"],
                replicas=item["spec"].get("replicas", item["spec"].get("parallelism", 1)),
                labels=item["spec"]["template"]["metadata"]["labels"],
                pod=item["spec"]["template"]["spec"],
            )
            for item in self.resources
            if item["kind"] in {"Deployment", "Job"}
        ]

    def config_map(self, workload: Workload, mount_path: str) -> dict[str, str]:
        """The files that the workload finds under a mount path."""
        mounts = {mount["mountPath"]: mount["name"] for item in workload.containers for mount in item["volumeMounts"]}
        volume = next(volume for volume in workload.pod["volumes"] if volume["name"] == mounts[mount_path])
        name = volume["configMap"]["name"]
        data: dict[str, str] = next(item["data"] for item in self.of("ConfigMap") if item["metadata"]["name"] == name)
        return data

    def selected(self, selector: dict[str, Any]) -> list[Workload]:
        """Workloads whose pods a label selector (matchLabels, matchExpressions) matches."""
        return [workload for workload in self.workloads if matches(selector, workload.labels)]


def matches(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """Whether a Kubernetes label selector matches the labels."""
    assert set(selector) <= {"matchLabels", "matchExpressions"}, selector
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    for expression in selector.get("matchExpressions", []):
        has = labels.get(expression["key"]) in expression["values"]
        if has != {"In": True, "NotIn": False}[expression["operator"]]:
            return False
    return True


@lru_cache
def render(variant: str) -> Manifests:
    """Build one variant with kubectl or kustomize, whichever is installed."""
    if kubectl := shutil.which("kubectl"):
        command = [kubectl, "kustomize"]
    elif kustomize := shutil.which("kustomize"):
        command = [kustomize, "build"]
    elif os.environ.get("CI"):
        pytest.fail("neither kubectl nor kustomize is installed: the manifests cannot be checked")
    else:
        pytest.skip("neither kubectl nor kustomize is installed")
    result = subprocess.run([*command, str(DEPLOY / variant)], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    return Manifests(variant, tuple(item for item in yaml.safe_load_all(result.stdout) if item))


@pytest.fixture(scope="session", params=VARIANTS)
def manifests(request: pytest.FixtureRequest) -> Manifests:
    """Each variant in turn."""
    return render(request.param)


@pytest.fixture(scope="session")
def base() -> Manifests:
    """The base alone."""
    return render("base")


@pytest.fixture(scope="session")
def local() -> Manifests:
    """The overlay for one machine."""
    return render("overlays/local")


@pytest.fixture(scope="session")
def gpu() -> Manifests:
    """The overlay with GPUs."""
    return render("overlays/gpu")


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the repository."""
    return ROOT
