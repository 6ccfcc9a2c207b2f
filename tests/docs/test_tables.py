"""Tables that come from the code are those of the code, and complete."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys

from prometheus_client import REGISTRY

import rewardmesh.gateway
import rewardmesh.panel.metrics
import rewardmesh.serving.metrics
import rewardmesh.trainer.tracking
import rewardmesh.verifier  # noqa: F401 - imported, as the others, so that their metrics are registered
from doc_blocks import ROOT
from rewardmesh.trainer.recipe import Recipe


def test_tables_are_up_to_date() -> None:
    done = subprocess.run([sys.executable, "docs/tables.py", "--check"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_every_registered_metric_is_documented() -> None:
    importlib.import_module("rewardmesh.verifier.service")  # this package loads its parts only when they are asked for
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| `(rewardmesh_\w+)` ", page, re.MULTILINE))
    registered = {
        f"{family.name}_total" if family.type == "counter" else family.name
        for family in REGISTRY.collect()
        if family.name.startswith("rewardmesh_")
    }
    assert registered == documented


def test_every_metric_that_the_pages_mention_exists() -> None:
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| `(rewardmesh_\w+)` ", page, re.MULTILINE))
    for other in (ROOT / "docs").glob("*.md"):
        assert set(re.findall(r"`(rewardmesh_[a-z_]+)`", other.read_text(encoding="utf-8"))) - {"rewardmesh_packed"} <= documented, (
            other.name
        )


def test_every_field_of_a_recipe_is_documented() -> None:
    page = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| `([a-z_.]+)` ", page, re.MULTILINE))
    assert set(Recipe.model_fields) <= documented
    schema = Recipe.model_json_schema()
    sections = {name: ref["$ref"] for name, ref in schema["properties"].items() if "$ref" in ref}
    for section, reference in sections.items():
        for field in schema["$defs"][reference.rpartition("/")[2]]["properties"]:
            assert f"{section}.{field}" in documented
