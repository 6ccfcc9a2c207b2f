"""The files themselves: linters, the Dockerfile's promises, and configurations that the services accept."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

if TYPE_CHECKING:
    from deploy.conftest import Manifests

SERVICES = ("reward", "judge", "panel", "verifier", "logprob", "generation", "gateway")


def test_yamllint(root: Path) -> None:
    _run(sys.executable, "-m", "yamllint", "--strict", "-c", str(root / "deploy/.yamllint"), str(root / "deploy"))


def test_hadolint(root: Path) -> None:
    hadolint = shutil.which("hadolint", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    assert hadolint, "hadolint is part of the dev extra"
    _run(hadolint, "--failure-threshold", "style", str(root / "deploy/docker/Dockerfile"))


def test_both_images_hold_the_same_wheel_and_no_root(root: Path) -> None:
    text = (root / "deploy/docker/Dockerfile").read_text(encoding="utf-8")
    stages = dict(re.findall(r"^FROM (\S+) AS (\S+)$", text, re.MULTILINE))
    names = re.findall(r"^FROM \S+ AS (\S+)$", text, re.MULTILINE)
    assert {"cpu", "gpu"} <= set(names)
    assert names[-1] == "cpu", "a build without --target is the small one"
    assert stages
    assert text.count("--mount=type=bind,from=wheel") == 2
    assert re.findall(r"^USER (\S+)$", text, re.MULTILINE) == ["10001:10001"]
    assert re.findall(r"^ENTRYPOINT (.+)$", text, re.MULTILINE) == ['["rewardmesh"]']
    assert "/models" not in re.sub(r"#.*", "", text)
    assert not re.search(r":latest\b", text)


def test_dependencies_come_before_source(root: Path) -> None:
    """An image layer with the dependencies survives an edit of the source: the stages that install them copy no source."""
    text = re.sub(r"^#.*\n", "", (root / "deploy/docker/Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    for stage in re.split(r"^(?=FROM )", text, flags=re.MULTILINE):
        installs = stage.find("[train]")
        if installs >= 0:
            assert "COPY" not in stage[:installs]
            assert stage.startswith("FROM builder ")


def test_the_build_context_is_an_allow_list(root: Path) -> None:
    lines = [line for line in (root / ".dockerignore").read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    copied = re.findall(r"^COPY (?!--from)(.+)$", (root / "deploy/docker/Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    sources = {source for line in copied for source in line.split()[:-1]}
    assert sources == {line.removeprefix("!") for line in lines if line.startswith("!")}


@pytest.mark.parametrize("service", SERVICES)
def test_services_accept_their_configuration(root: Path, service: str) -> None:
    package = importlib.import_module(f"rewardmesh.{service}")
    config = package.Config.load(path=root / f"deploy/base/config/{service}.yaml")
    assert config.metrics_port == 9090


def test_the_gpu_overlay_sets_fields_that_exist(gpu: Manifests) -> None:
    for workload in gpu.workloads:
        prefix = f"REWARDMESH_{workload.component.upper()}_"
        names = {item["name"].removeprefix(prefix).lower() for item in workload.containers[0]["env"] if item["name"].startswith(prefix)}
        if names:
            config = importlib.import_module(f"rewardmesh.{workload.component}").Config
            assert names <= config.model_fields.keys()
            assert config.model_config["env_prefix"] == prefix


def test_verifier_workers_fit_their_container(base: Manifests, root: Path) -> None:
    from rewardmesh.verifier import Config

    config = Config.load(path=root / "deploy/base/config/verifier.yaml")
    (workload,) = [workload for workload in base.workloads if workload.component == "verifier"]
    limits = workload.containers[0]["resources"]["limits"]
    assert config.workers <= int(limits["cpu"])
    assert config.workers * config.memory_limit_bytes < int(limits["memory"].removesuffix("Gi")) * 2**30


def test_the_gateway_accepts_its_programs(root: Path) -> None:
    from rewardmesh.gateway import Config
    from rewardmesh.gateway.catalogue import load_catalogue
    from rewardmesh.reward import Config as RewardConfig

    config = Config.load(path=root / "deploy/base/config/gateway.yaml")
    catalogue = load_catalogue([root / "deploy/base/programs"], config.baselines)
    reward = RewardConfig.load(path=root / "deploy/base/config/reward.yaml")
    for program in catalogue.programs.values():
        for signal in program.signals.values():
            assert signal.kind in config.backends
            if signal.kind == "reward":
                assert signal.target == reward.name


def test_the_panel_accepts_its_file(base: Manifests, root: Path) -> None:
    from rewardmesh.panel.document import load_panel

    (workload,) = [workload for workload in base.workloads if workload.component == "panel"]
    path = Path(yaml.safe_load(base.config_map(workload, "/etc/rewardmesh")["panel.yaml"])["panel"])
    assert path.name in base.config_map(workload, str(path.parent))
    panel = load_panel(root / "deploy/base/config" / path.name, {})
    assert {spec.address for spec in panel.members.values()} == {"dns:///rewardmesh-judge:50051"}


@pytest.mark.parametrize(("path", "device"), [("base/config/recipe.yaml", "cpu"), ("overlays/gpu/recipe.yaml", "cuda")])
def test_the_trainer_accepts_its_recipe(root: Path, path: str, device: str) -> None:
    from rewardmesh.logprob import Config as LogProbConfig
    from rewardmesh.trainer.recipe import Recipe

    recipe = Recipe.load(root / "deploy" / path)
    assert recipe.device == device
    assert recipe.metrics_port == 9090
    assert recipe.run_dir.is_relative_to("/weights"), "generation loads the versions that a run writes"
    assert recipe.reference_policy == LogProbConfig.load(path=root / "deploy/base/config/logprob.yaml").name
    programs = [yaml.safe_load(file.read_text(encoding="utf-8")) for file in (root / "deploy/base/programs").glob("*.yaml")]
    assert recipe.program in {program["name"] for program in programs}


def test_a_configuration_in_the_cluster_is_a_file_here(manifests: Manifests, root: Path) -> None:
    for workload in manifests.workloads:
        for name, text in manifests.config_map(workload, "/etc/rewardmesh").items():
            own = root / "deploy" / manifests.variant / name
            path = own if manifests.variant != "base" and own.exists() else root / "deploy/base/config" / name
            assert yaml.safe_load(text) == yaml.safe_load(path.read_text(encoding="utf-8"))


def _run(*command: str) -> None:
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
