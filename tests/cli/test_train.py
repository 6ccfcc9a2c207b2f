"""`train --mesh`: a mesh of processes started for the run, a recipe that refers to it, the table and the files at the end."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from rewardmesh.cli.app import app
from rewardmesh.demo.build import BuildConfig, build_models
from rewardmesh.trainer.fitting import FitConfig
from rewardmesh.trainer.scratch import Shape

from .conftest import Start, alive, family, until

PROGRAM = """
name: short
signals: {short: {verifier: length, options: {maximum: 4, margin: 20}}}
reward: {sum: [{of: short, weight: 1.0}]}
on_absence: {short: wait}
"""


@pytest.fixture
def recipe(tmp_path: Path, make_model: Callable[..., Path]) -> Path:
    """Writes mesh.yaml, program.yaml, prompts and a recipe of two steps into tmp_path."""
    policy = str(make_model("causal"))
    model = {"model": policy, "threads": 1}
    backends = {"verifier": "${services.checker.address}"}
    services = {
        "checker": {"kind": "verifier", "workers": 1},
        "writer": {"kind": "generation", **model},
        "reference": {"kind": "logprob", **model},
        "gateway": {"kind": "gateway", "programs": ["program.yaml"], "backends": backends},
    }
    (tmp_path / "mesh.yaml").write_text(yaml.safe_dump({"log_dir": "logs", "services": services}), encoding="utf-8")
    (tmp_path / "program.yaml").write_text(PROGRAM, encoding="utf-8")
    lines = [{"prompt": f"Ann has {i} apples.", "references": [str(i)]} for i in range(4)]
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    places = {"gateway": "gateway", "generation": "writer", "logprob": "reference", "verifier": "checker"}
    document = {
        "run_dir": "run",
        "policy": "nowhere",
        "prompts": {"path": "prompts.jsonl"},
        "services": {role: f"${{services.{name}.address}}" for role, name in places.items()},
        "algorithm": {"name": "online_dpo"},
        "sampling": {"prompts_per_step": 2, "completions": 2, "max_tokens": 8},
        "steps": 2,
        "checkpoint_every": 1,
        "threads": 1,
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    return Path(policy)


@pytest.mark.slow
def test_train_with_a_mesh_of_its_own(tmp_path: Path, start: Start, recipe: Path) -> None:
    process = start("train", "recipe.yaml", "--mesh", "mesh.yaml", "--policy", recipe)
    out, err = process.communicate(timeout=150)
    assert process.returncode == 0, err + out
    assert "step 2/2" in out
    for name in ("report.html", "samples.parquet", "summary.json"):
        assert f"run/{name}" in out
        assert (tmp_path / "run" / name).stat().st_size
    assert json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))["steps"] == 2
    assert not (tmp_path / "logs" / "mesh-state.json").exists()


@pytest.mark.slow
def test_interrupted_training_leaves_no_process(tmp_path: Path, start: Start, recipe: Path) -> None:
    process = start("train", "recipe.yaml", "--mesh", "mesh.yaml", "--policy", recipe, "--steps", 100000)
    until((tmp_path / "run" / "metrics.jsonl").exists, "the first step", 120)
    pids = family(process.pid)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted; run the same command again" in err
    assert "Traceback" not in err
    assert not any(map(alive, pids))


def test_mistakes_of_an_embedded_recipe_show_before_anything_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runner: CliRunner
) -> None:
    monkeypatch.chdir(tmp_path)
    document = {"base": "embedded", "algorithm": {"name": "online_dpo"}, "steps": 2}
    (tmp_path / "short.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    for change, message in (
        ("algorithm.betta=3", "short.yaml: algorithm: betta: unknown field (did you mean 'beta'?)"),
        ("embedded.model=x", "short.yaml: embedded: model: unknown field (did you mean 'models'?)"),
        ("embedded.services.verifier.wrkers=2", "services.verifier.wrkers: unknown field (did you mean 'workers'?)"),
        ("steps", "--set steps: must be path.to.field=value"),
    ):
        result = runner.invoke(app, ["train", "short.yaml", "--set", change])
        assert result.exit_code == 2
        assert message in result.output
    assert not (tmp_path / "runs" / "embedded").exists()
    assert json.loads((tmp_path / "runs" / "short" / "train.jsonl").read_text(encoding="utf-8").splitlines()[0])["references"]


@pytest.mark.slow
def test_an_embedded_recipe_brings_its_own_mesh(tmp_path: Path, start: Start) -> None:
    """With small models in place of those it would build for a minute and a half."""
    tiny = BuildConfig(
        policy_shape=Shape(hidden=32, layers=1, intermediate=64, heads=2, context=256),
        reward_shape=Shape(hidden=32, layers=1, intermediate=64, heads=2, context=256),
        judge_shape=Shape(hidden=32, layers=1, intermediate=64, heads=2, context=256),
        policy=FitConfig(steps=2),
        reward=FitConfig(steps=2),
        judge=FitConfig(steps=2),
    )
    build_models(tmp_path / "models", 0, tiny)
    for path in (tmp_path / "models").glob("*/built.json"):  # they pass for the usual ones
        path.write_text(json.dumps({**json.loads(path.read_text()), "config": BuildConfig().model_dump(mode="json")}), encoding="utf-8")
    document = {
        "base": "embedded",
        "algorithm": {"name": "online_dpo"},
        "embedded": {"models": "models"},
        "sampling": {"prompts_per_step": 2, "completions": 2, "max_tokens": 8},
        "evaluation": {"n": 4},
        "steps": 2,
    }
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    process = start("train", "tiny.yaml", "--set", "seed=5")
    out, err = process.communicate(timeout=150)
    assert process.returncode == 0, err + out
    summary = json.loads((tmp_path / "runs" / "tiny" / "summary.json").read_text(encoding="utf-8"))
    assert (summary["steps"], summary["seed"], summary["heldout_n"]) == (2, 5, 4)
