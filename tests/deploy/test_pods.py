"""Rules for every pod: restricted security, probes, resources, images, shutdown."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from rewardmesh.v1 import (
    generation_service_pb2,
    judge_service_pb2,
    log_prob_service_pb2,
    mesh_service_pb2,
    reward_service_pb2,
    verifier_service_pb2,
)

if TYPE_CHECKING:
    from deploy.conftest import Manifests

GPU = "nvidia.com/gpu"

HEALTH_NAMES = {
    "reward": reward_service_pb2,
    "judge": judge_service_pb2,
    "panel": judge_service_pb2,
    "verifier": verifier_service_pb2,
    "logprob": log_prob_service_pb2,
    "generation": generation_service_pb2,
    "gateway": mesh_service_pb2,
}


def test_every_component_is_rendered(manifests: Manifests) -> None:
    assert {workload.component for workload in manifests.workloads} == {*HEALTH_NAMES, "trainer"}


def test_pods_are_restricted(manifests: Manifests) -> None:
    for workload in manifests.workloads:
        pod = workload.pod
        context = pod["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["runAsUser"] > 0
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        assert {key for volume in pod["volumes"] for key in volume} <= {"name", "configMap", "emptyDir", "persistentVolumeClaim"}
        for container in workload.containers:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }


def test_the_namespace_enforces_the_restricted_standard(manifests: Manifests) -> None:
    (namespace,) = manifests.of("Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_tmp_is_the_only_scratch_space_and_is_bounded(manifests: Manifests) -> None:
    for workload in manifests.workloads:
        scratch = [volume for volume in workload.pod["volumes"] if "emptyDir" in volume]
        assert [volume["name"] for volume in scratch] == ["tmp"]
        assert scratch[0]["emptyDir"]["sizeLimit"]
        for container in workload.containers:
            assert {"name": "tmp", "mountPath": "/tmp"} in container["volumeMounts"]


def test_service_accounts_hold_no_token(manifests: Manifests) -> None:
    accounts = {item["metadata"]["name"]: item for item in manifests.of("ServiceAccount")}
    assert all(item["automountServiceAccountToken"] is False for item in accounts.values())
    for workload in manifests.workloads:
        assert workload.pod["serviceAccountName"] in accounts
        assert workload.pod["automountServiceAccountToken"] is False
    assert not [item["kind"] for item in manifests.resources if "Role" in item["kind"]]


def test_service_links_cannot_be_read_as_configuration(manifests: Manifests) -> None:
    """REWARDMESH_REWARD_PORT, which Kubernetes would inject for a Service, is also a field of the reward server."""
    assert all(workload.pod["enableServiceLinks"] is False for workload in manifests.workloads)


def test_services_have_grpc_probes(manifests: Manifests) -> None:
    for workload in manifests.workloads:
        if not workload.is_service:
            continue
        (container,) = workload.containers
        descriptor = HEALTH_NAMES[workload.component].DESCRIPTOR
        (service,) = descriptor.services_by_name.values()
        for probe in ("startupProbe", "readinessProbe"):
            assert container[probe]["grpc"] == {"port": workload.port("grpc"), "service": service.full_name}, (workload.component, probe)
        assert container["livenessProbe"]["grpc"] == {"port": workload.port("grpc"), "service": "liveness"}


def test_ports_are_named_and_configured(manifests: Manifests) -> None:
    for workload in manifests.workloads:
        assert workload.port("metrics") == 9090
        if workload.is_service:
            assert workload.port("grpc") == 50051
            config = yaml.safe_load(manifests.config_map(workload, "/etc/rewardmesh")[f"{workload.component}.yaml"])
            assert (config["port"], config["metrics_port"]) == (50051, 9090)
            assert config["host"] == "0.0.0.0", "probes and clients come from outside the pod"
            assert config["log_format"] == "json"


def test_a_pod_outlives_its_drain(manifests: Manifests) -> None:
    for workload in manifests.workloads:
        if not workload.is_service:
            continue
        (container,) = workload.containers
        config = yaml.safe_load(manifests.config_map(workload, "/etc/rewardmesh")[f"{workload.component}.yaml"])
        pause_s = container["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert pause_s > 0
        assert workload.pod["terminationGracePeriodSeconds"] > pause_s + config["drain_seconds"]
        liveness = container["livenessProbe"]
        assert liveness["periodSeconds"] * liveness["failureThreshold"] > config["drain_seconds"], "a draining server is not dead"


def test_arguments_name_mounted_files(manifests: Manifests) -> None:
    for workload in manifests.workloads:
        (container,) = workload.containers
        assert "command" not in container, "the image's entry point is the command line"
        if workload.is_service:
            path = f"/etc/rewardmesh/{workload.component}.yaml"
            assert container["args"] == ["serve", workload.component, "--config", path]
        else:
            path = "/etc/rewardmesh/recipe.yaml"
            assert container["args"] == ["train", path]
        assert Path(path).name in manifests.config_map(workload, "/etc/rewardmesh")


def test_containers_have_requests_and_limits(manifests: Manifests) -> None:
    for workload in manifests.workloads:
        for container in workload.containers:
            for kind in ("requests", "limits"):
                assert {"cpu", "memory"} <= container["resources"][kind].keys(), (workload.component, kind)


def test_images_are_tagged_with_the_project_version(manifests: Manifests, root: Path) -> None:
    version = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    for workload in manifests.workloads:
        for container in workload.containers:
            assert re.fullmatch(rf"rewardmesh:{re.escape(version)}-(cpu|gpu)", container["image"]), container["image"]


def test_only_the_gpu_overlay_asks_for_gpus(manifests: Manifests) -> None:
    expected = {"reward", "judge", "logprob", "generation", "trainer"} if manifests.variant == "overlays/gpu" else set()
    for workload in manifests.workloads:
        (container,) = workload.containers
        wanted = "1" if workload.component in expected else None
        assert [container["resources"][kind].get(GPU) for kind in ("requests", "limits")] == [wanted, wanted], workload.component
        assert container["image"].endswith("-gpu" if wanted else "-cpu"), workload.component


def test_pods_with_a_gpu_use_it(gpu: Manifests) -> None:
    for workload in gpu.workloads:
        (container,) = workload.containers
        if workload.is_service and GPU in container["resources"]["limits"]:
            environment = {item["name"]: item.get("value") for item in container["env"]}
            assert environment[f"REWARDMESH_{workload.component.upper()}_DEVICE"] == "cuda"


def test_the_local_overlay_runs_one_replica_each(local: Manifests) -> None:
    assert {workload.replicas for workload in local.workloads} == {1}
    assert all(claim["spec"]["accessModes"] == ["ReadWriteOnce"] for claim in local.of("PersistentVolumeClaim"))


def test_shared_volumes(manifests: Manifests) -> None:
    claims = {item["metadata"]["name"] for item in manifests.of("PersistentVolumeClaim")}
    writers: dict[str, set[str]] = {}
    readers: dict[str, set[str]] = {}
    for workload in manifests.workloads:
        volumes = {v["name"]: v["persistentVolumeClaim"] for v in workload.pod["volumes"] if "persistentVolumeClaim" in v}
        assert {claim["claimName"] for claim in volumes.values()} <= claims
        for container in workload.containers:
            for mount in container["volumeMounts"]:
                if mount["name"] in volumes:
                    kind = readers if mount.get("readOnly") else writers
                    kind.setdefault(mount["mountPath"], set()).add(workload.component)
    assert writers == {"/weights": {"trainer"}}
    assert readers == {"/weights": {"generation"}, "/models": {"reward", "judge", "logprob", "generation", "trainer"}}


def test_replicas_are_spread_and_survive_a_drain(manifests: Manifests) -> None:
    budgets = manifests.of("PodDisruptionBudget")
    for workload in manifests.workloads:
        if not workload.is_service:
            continue
        (spread,) = workload.pod["topologySpreadConstraints"]
        assert manifests.selected(spread["labelSelector"]) == [workload]
        (budget,) = [item for item in budgets if workload in manifests.selected(item["spec"]["selector"])]
        assert budget["spec"]["maxUnavailable"] == 1


def test_the_trainer_survives_disruption(manifests: Manifests) -> None:
    (job,) = manifests.of("Job")
    spec = job["spec"]
    assert spec["completionMode"] == "Indexed"
    assert spec["template"]["spec"]["restartPolicy"] == "Never", "podFailurePolicy requires it"
    assert spec["podReplacementPolicy"] == "Failed", "two trainers must never write one run"
    ignored = spec["podFailurePolicy"]["rules"][0]
    assert ignored == {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    names = {container["name"] for container in spec["template"]["spec"]["containers"]}
    for rule in spec["podFailurePolicy"]["rules"][1:]:
        assert rule["onExitCodes"]["containerName"] in names
        assert 0 not in rule["onExitCodes"]["values"]
