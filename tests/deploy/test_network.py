"""Services, selectors and network policies: who can find and call whom."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from deploy.conftest import Manifests, Workload

CALLS = {
    ("gateway", "reward"),
    ("gateway", "judge"),
    ("gateway", "panel"),
    ("panel", "judge"),
    ("gateway", "verifier"),
    ("trainer", "gateway"),
    ("trainer", "logprob"),
    ("trainer", "generation"),
    ("trainer", "verifier"),
}


def test_services_are_headless_and_select_their_own_pods(manifests: Manifests) -> None:
    services = {item["metadata"]["name"]: item["spec"] for item in manifests.of("Service")}
    assert services.keys() == {f"rewardmesh-{workload.component}" for workload in manifests.workloads}
    for workload in manifests.workloads:
        spec = services[f"rewardmesh-{workload.component}"]
        assert spec["clusterIP"] == "None"
        assert manifests.selected({"matchLabels": spec["selector"]}) == [workload]
        for port in spec["ports"]:
            assert workload.port(port["targetPort"]) == port["port"]


def test_deployments_select_their_own_pods(manifests: Manifests) -> None:
    for item in manifests.of("Deployment"):
        (workload,) = manifests.selected(item["spec"]["selector"])
        assert item["metadata"]["name"] == f"rewardmesh-{workload.component}"


def test_the_jobs_subdomain_is_its_service(manifests: Manifests) -> None:
    (job,) = manifests.of("Job")
    assert job["spec"]["template"]["spec"]["subdomain"] in {item["metadata"]["name"] for item in manifests.of("Service")}


def test_targets_name_services_that_the_caller_may_reach(manifests: Manifests) -> None:
    """Every dns:/// target in a configuration is a Service, on its port, and is a call the policies allow."""
    ports = {item["metadata"]["name"]: {port["port"] for port in item["spec"]["ports"]} for item in manifests.of("Service")}
    found = set()
    for workload in manifests.workloads:
        for text in manifests.config_map(workload, "/etc/rewardmesh").values():
            for target in _targets(yaml.safe_load(text)):
                name, _, port = target.removeprefix("dns:///").partition(":")
                assert int(port) in ports[name], target
                found.add((workload.component, name.removeprefix("rewardmesh-")))
    assert found == CALLS


def test_everything_is_denied_by_default(local: Manifests, gpu: Manifests) -> None:
    for manifests in (local, gpu):
        denials = [item["spec"] for item in manifests.of("NetworkPolicy") if item["spec"]["podSelector"] == {}]
        assert denials == [{"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}]


def test_policies_allow_exactly_the_calls_of_the_mesh(local: Manifests, gpu: Manifests) -> None:
    for manifests in (local, gpu):
        pairs = [(caller, callee) for caller in manifests.workloads for callee in manifests.workloads if caller is not callee]
        incoming = {(a.component, b.component) for a, b in pairs if _allows(manifests, "ingress", b, a, {"grpc", 50051})}
        outgoing = {(a.component, b.component) for a, b in pairs if _allows(manifests, "egress", a, b, {50051})}
        assert incoming == CALLS
        assert outgoing == CALLS


def test_metrics_are_reachable_by_port(local: Manifests) -> None:
    for workload in local.workloads:
        rules = [rule for policy in _policies(local, workload) for rule in policy.get("ingress", []) if "from" not in rule]
        assert [port["port"] for rule in rules for port in rule["ports"]] == ["metrics"]


def test_verifiers_have_no_way_out(local: Manifests, gpu: Manifests) -> None:
    for manifests in (local, gpu):
        (verifier,) = [workload for workload in manifests.workloads if workload.component == "verifier"]
        assert not [rule for policy in _policies(manifests, verifier) for rule in policy.get("egress", [])]


def _targets(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value] if value.startswith("dns:///") else []
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [target for item in items for target in _targets(item)]


def _policies(manifests: Manifests, workload: Workload) -> list[dict[str, Any]]:
    return [item["spec"] for item in manifests.of("NetworkPolicy") if workload in manifests.selected(item["spec"]["podSelector"])]


def _allows(manifests: Manifests, direction: str, workload: Workload, peer: Workload, ports: set[str | int]) -> bool:
    """Whether some policy of `workload` lets `peer` (of this namespace) through on one of the ports."""
    side = {"ingress": "from", "egress": "to"}[direction]
    for policy in _policies(manifests, workload):
        for rule in policy.get(direction, []):
            if "ports" in rule and not ports & {port["port"] for port in rule["ports"]}:
                continue
            if side not in rule or any(peer in manifests.selected(item["podSelector"]) for item in rule[side]):
                return True
    return False
