"""The component that lets verifiers run programs: it loosens the verifier's pod and nothing else."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

if TYPE_CHECKING:
    from deploy.conftest import Manifests

from rewardmesh.verifier import VerifierConfig


@pytest.fixture(scope="module")
def sandboxed(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Manifests:
    """overlays/local with the component."""
    from deploy.conftest import render

    folder = tmp_path_factory.mktemp("overlay")
    deploy = os.path.relpath(root / "deploy", folder)
    kustomization = {"resources": [f"{deploy}/overlays/local"], "components": [f"{deploy}/components/code-sandbox"]}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return render(os.path.relpath(folder, root / "deploy"))


def test_only_the_verifier_is_loosened(sandboxed: Manifests, local: Manifests) -> None:
    plain = {workload.component: workload.pod for workload in local.workloads}
    for workload in sandboxed.workloads:
        if workload.component != "verifier":
            assert workload.pod == plain[workload.component]
    (namespace,) = sandboxed.of("Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "privileged"
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/warn"] == "restricted"


def test_the_verifier_has_a_user_namespace_and_stays_without_rights(sandboxed: Manifests) -> None:
    (pod,) = [workload.pod for workload in sandboxed.workloads if workload.component == "verifier"]
    assert pod["hostUsers"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "Unconfined"}
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
        "procMount": "Unmasked",
    }


def test_it_says_so_by_name(sandboxed: Manifests, monkeypatch: pytest.MonkeyPatch) -> None:
    (pod,) = [workload.pod for workload in sandboxed.workloads if workload.component == "verifier"]
    environment = {item["name"]: item["value"] for item in pod["containers"][0]["env"] if item["name"].startswith("REWARDMESH_")}
    assert environment
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert VerifierConfig(port=0).sandbox == "bubblewrap"
