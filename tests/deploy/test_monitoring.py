"""PodMonitors and alerts: structure, targets, and metric names that really exist."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

if TYPE_CHECKING:
    from deploy.conftest import Manifests


def test_pod_monitors_scrape_every_pod_once(gpu: Manifests) -> None:
    scraped: list[str] = []
    for item in gpu.of("PodMonitor"):
        assert item["apiVersion"] == "monitoring.coreos.com/v1"
        assert item["spec"].keys() == {"selector", "podTargetLabels", "podMetricsEndpoints"}
        (endpoint,) = item["spec"]["podMetricsEndpoints"]
        assert endpoint.keys() == {"port", "path", "interval"}
        workloads = gpu.selected(item["spec"]["selector"])
        assert workloads
        for workload in workloads:
            assert workload.port(endpoint["port"]) == 9090
            scraped.append(workload.component)
    assert sorted(scraped) == sorted(workload.component for workload in gpu.workloads)


def test_alerts_are_complete(gpu: Manifests) -> None:
    rules = _rules(gpu)
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        assert rule.keys() == {"alert", "expr", "for", "labels", "annotations"}
        assert re.fullmatch(r"Rewardmesh[A-Z]\w+", rule["alert"])
        assert re.fullmatch(r"\d+m", rule["for"])
        assert rule["labels"].keys() == {"severity"}
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert rule["annotations"].keys() == {"summary", "description"}
        for opening, closing in ("()", "[]", "{}"):
            assert rule["expr"].count(opening) == rule["expr"].count(closing), rule["alert"]


def test_alerts_use_metrics_that_exist(gpu: Manifests, root: Path) -> None:
    labels = _service_metrics() | _trainer_metrics(root)
    for rule in _rules(gpu):
        used = re.findall(r"(rewardmesh_\w+)(?:\{([^}]*)\})?", rule["expr"])
        assert used, rule["alert"]
        for name, matchers in used:
            assert name in labels, f"{rule['alert']}: no metric {name}"
            known = labels[name]
            if known is not None:
                grouped = {label for group in re.findall(r"by \(([^)]*)\)", rule["expr"]) for label in re.split(r",\s*", group)}
                assert grouped <= known | {"namespace", "pod"}, rule["alert"]
                assert set(re.findall(r"(\w+)\s*[=!]", matchers)) <= known, rule["alert"]


def test_alerts_name_codes_and_outcomes_that_exist(gpu: Manifests) -> None:
    import grpc

    from rewardmesh.v1 import common_pb2

    codes = {code.name for code in grpc.StatusCode}
    outcomes = {name.removeprefix("ABSENCE_REASON_").lower() for name in common_pb2.AbsenceReason.DESCRIPTOR.values_by_name} | {"present"}
    for rule in _rules(gpu):
        for label, known in (("code", codes), ("outcome", outcomes)):
            for values in re.findall(rf'{label}(?:=|=~|!=|!~)"([^"]*)"', rule["expr"]):
                assert set(values.split("|")) <= known, rule["alert"]


def test_alerts_fire(gpu: Manifests, tmp_path: Path) -> None:
    """promtool, where it is installed, parses the rules and runs them over made-up series."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool (Debian package prometheus) is not installed")
    (item,) = gpu.of("PrometheusRule")
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(item["spec"]), encoding="utf-8")
    series = {
        'rewardmesh_requests_total{service="reward",code="OK"}': "0+60x60",
        'rewardmesh_requests_total{service="reward",code="INTERNAL"}': "0+20x60",
        'rewardmesh_requests_total{service="reward",code="RESOURCE_EXHAUSTED"}': "0+20x60",
        'rewardmesh_requests_total{service="judge",code="OK"}': "0+60x60",
        'rewardmesh_items_total{service="reward",model="a",outcome="present"}': "0+60x60",
        'rewardmesh_items_total{service="reward",model="a",outcome="deadline"}': "0+20x60",
        'rewardmesh_items_total{service="reward",model="b",outcome="not_applicable"}': "0+60x60",
        'rewardmesh_queue_seconds_bucket{service="reward",le="10"}': "0+10x60",
        'rewardmesh_queue_seconds_bucket{service="reward",le="30"}': "0+60x60",
        'rewardmesh_queue_seconds_bucket{service="reward",le="+Inf"}': "0+60x60",
        'rewardmesh_trainer_steps_total{pod="a"}': "5+0x60",
        'rewardmesh_trainer_steps_total{pod="b"}': "0+1x60",
    }
    expected = {
        "RewardmeshCallsFailing": {"service": "reward"},
        "RewardmeshOverloaded": {"service": "reward"},
        "RewardmeshQueueSlow": {"service": "reward"},
        "RewardmeshScoresAbsent": {"service": "reward", "model": "a"},
        "RewardmeshTrainerStalled": {"pod": "a"},
    }
    assert expected.keys() == {rule["alert"] for rule in _rules(gpu)}
    firing = [
        f"count({name}) by ({', '.join(sorted(labels))})"
        for name, labels in ((f'ALERTS{{alertname="{alert}",alertstate="firing"}}', labels) for alert, labels in expected.items())
    ]
    test = {
        "rule_files": ["rules.yaml"],
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "promql_expr_test": [
                    {
                        "expr": expression,
                        "eval_time": "50m",
                        "exp_samples": [{"labels": _matchers(labels), "value": 1}],
                    }
                    for expression, labels in zip(firing, expected.values(), strict=True)
                ],
            }
        ],
    }
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(test), encoding="utf-8")
    result = subprocess.run(
        [promtool, "test", "rules", str(tmp_path / "test.yaml")], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


def _matchers(labels: dict[str, str]) -> str:
    return "{" + ", ".join(f'{name}="{value}"' for name, value in labels.items()) + "}"


def _rules(manifests: Manifests) -> list[dict[str, Any]]:
    (item,) = manifests.of("PrometheusRule")
    assert item["apiVersion"] == "monitoring.coreos.com/v1"
    assert item["spec"].keys() == {"groups"}
    for group in item["spec"]["groups"]:
        assert group.keys() == {"name", "rules"}
    return [rule for group in item["spec"]["groups"] for rule in group["rules"]]


def _service_metrics() -> dict[str, set[str] | None]:
    """Sample names of every metric in rewardmesh.serving.metrics, with their labels."""
    from prometheus_client import Counter, Gauge, Histogram

    from rewardmesh.serving import metrics

    names: dict[str, set[str] | None] = {}
    for metric in vars(metrics).values():
        if isinstance(metric, Counter | Gauge | Histogram):
            (family,) = metric.describe()
            labels = set(metric._labelnames)
            suffixes = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}[family.type]
            for suffix in suffixes:
                names[family.name + suffix] = labels | {"le"} if suffix == "_bucket" else labels
    return names


def _trainer_metrics(root: Path) -> dict[str, set[str] | None]:
    """Sample names of the trainer's counters and gauges, from its source: importing it would load torch."""
    names: dict[str, set[str] | None] = {}
    for path in (root / "trainer" / "rewardmesh").rglob("*.py"):
        for kind, name in re.findall(r'\b(Counter|Gauge)\(\s*"(rewardmesh_trainer_\w+)"', path.read_text(encoding="utf-8")):
            names[name.removesuffix("_total") + "_total" if kind == "Counter" else name] = None
    return names
