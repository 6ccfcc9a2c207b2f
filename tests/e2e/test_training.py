"""The loop against a real mesh: it learns, it loses nothing, and it says what happened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rewardmesh.serving.config import ConfigError
from rewardmesh.trainer.ledger import Ledger
from rewardmesh.trainer.loop import train
from rewardmesh.trainer.recipe import Recipe
from tests_support import weights_digest

Mesh = dict[str, str]


async def test_online_dpo_makes_the_reward_rise(mesh: Mesh, make_recipe: Any) -> None:
    evaluation = {"prompts": {"path": "unused"}, "n": 4, "every": 16, "verifier": "math"}
    algorithm = {"name": "online_dpo", "beta": 0.1, "reward_temperature": 0.02}
    sampling = {"prompts_per_step": 6, "completions": 4, "max_tokens": 24, "temperature": 1.0}
    path = make_recipe(mesh, steps=32, algorithm=algorithm, sampling=sampling, optimiser={"learning_rate": 3e-3})
    document = json.loads(path.read_text())
    evaluation["prompts"] = document["prompts"]
    document["evaluation"] = evaluation
    path.write_text(json.dumps(document))
    recipe = Recipe.load(path)
    seen: list[tuple[int, dict[str, float]]] = []
    summary = await train(recipe, on_step=lambda step, metrics: seen.append((step, dict(metrics))))

    steps = [metrics for step, metrics in seen if step > 0]
    assert abs(steps[0]["kl"]) < 1e-3, "before the first update policy and reference are the same"
    first, last = np.mean([m["reward_mean"] for m in steps[:3]]), np.mean([m["reward_mean"] for m in steps[-3:]])
    assert last > first + 0.03, (first, last)
    count = Ledger(recipe.run_dir / "ledger").check(last_step=32)
    assert (count.steps, count.samples, count.absent) == (32, 32 * 24, 0)
    assert summary["heldout_n"] == 4
    assert isinstance(summary["heldout_kl"], float)
    assert summary["heldout_kl"] > 0.02
    measured = [metrics["heldout_kl"] for metrics in steps if "heldout_kl" in metrics]
    assert len(measured) == 2
    assert measured[0] < measured[1]
    assert measured[1] == pytest.approx(summary["heldout_kl"], rel=0.2), "both are of the policy after the last step"
    requests = summary["requests"]
    assert isinstance(requests, dict)
    assert summary["absences"] == {name: {} for name in requests}
    assert {"short", "helpful", "prefer", "generation", "logprob", "gateway", "verifier"} <= set(requests)
    for name in ("report.html", "summary.json", "samples.parquet", "metrics.jsonl", "recipe.yaml", "program.yaml", "eval_after.parquet"):
        assert (recipe.run_dir / name).stat().st_size > 0, name
    assert json.loads((recipe.run_dir / "summary.json").read_text())["versions"]["helpful"]["version"] == 1


async def test_ppo_trains_policy_and_critic(mesh: Mesh, make_recipe: Any) -> None:
    algorithm = {"name": "ppo", "epochs": 2, "kl_coef": 0.02}
    recipe = Recipe.load(
        make_recipe(mesh, "ppo", algorithm=algorithm, steps=3, optimiser={"learning_rate": 1e-3, "critic_learning_rate": 1e-2})
    )
    seen: list[dict[str, float]] = []
    await train(recipe, on_step=lambda step, metrics: seen.append(dict(metrics)))
    assert len(seen) == 3
    assert all(np.isfinite(metrics["grad_norm"]) and metrics["optimiser_steps"] == 2 for metrics in seen)
    assert Ledger(recipe.run_dir / "ledger").check(last_step=3).samples == 27
    assert weights_digest(recipe.run_dir / "checkpoints" / "step-000003" / "policy") != weights_digest(Path(recipe.policy))


async def test_a_finished_run_is_not_overwritten(mesh: Mesh, make_recipe: Any) -> None:
    recipe = Recipe.load(make_recipe(mesh, steps=1))
    await train(recipe)
    with pytest.raises(ConfigError, match="holds a run already"):
        await train(recipe, resume=False)


async def test_another_recipe_cannot_resume_a_run(mesh: Mesh, make_recipe: Any) -> None:
    await train(Recipe.load(make_recipe(mesh, steps=1)))
    with pytest.raises(ConfigError, match="another recipe"):
        await train(Recipe.load(make_recipe(mesh, steps=2, seed=7)))


async def test_importance_correction_compares_the_trainer_with_the_sampler(mesh: Mesh, make_recipe: Any) -> None:
    algorithm = {"name": "grpo", "importance": "token_truncate", "importance_high": 2.0}
    seen: list[dict[str, float]] = []
    await train(Recipe.load(make_recipe(mesh, algorithm=algorithm, steps=2)), on_step=lambda step, metrics: seen.append(dict(metrics)))
    for metrics in seen:
        assert metrics["optimiser_steps"] == 1
        assert metrics["importance_ess"] == pytest.approx(1.0, abs=1e-3), "both compute the same policy"
