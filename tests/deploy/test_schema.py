"""Every rendered resource against the schema of its kind."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import kubernetes_validate
import pytest

if TYPE_CHECKING:
    from deploy.conftest import Manifests

KUBERNETES_VERSIONS = ("1.31", "1.34")

CUSTOM_KINDS = {"PodMonitor", "PrometheusRule"}
"""Kinds without a schema here; test_monitoring.py checks their structure."""


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
def test_resources_follow_the_schema(manifests: Manifests, version: str) -> None:
    for resource in manifests.resources:
        if resource["kind"] in CUSTOM_KINDS:
            continue
        name = f"{resource['kind']} {resource['metadata']['name']}"
        try:
            kubernetes_validate.validate(resource, version, strict=True)
        except kubernetes_validate.SchemaNotFoundError as error:
            pytest.fail(f"{name}: no schema: {error.message}")
        except kubernetes_validate.ValidationError as error:
            pytest.fail(f"{name}: {'.'.join(map(str, error.path))}: {error.message}")


def test_a_misspelt_field_is_found(base: Manifests) -> None:
    broken = {**base.of("Job")[0], "spec": {**base.of("Job")[0]["spec"], "podFailurePolicies": {}}}
    with pytest.raises(kubernetes_validate.ValidationError, match="podFailurePolicies"):
        kubernetes_validate.validate(broken, "1.31", strict=True)


def test_names_are_unique_and_in_one_namespace(manifests: Manifests) -> None:
    names = Counter((item["kind"], item["metadata"]["name"]) for item in manifests.resources)
    assert max(names.values()) == 1, names.most_common(3)
    for item in manifests.resources:
        if item["kind"] != "Namespace":
            assert item["metadata"]["namespace"] == "rewardmesh", item["metadata"]["name"]
