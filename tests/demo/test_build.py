"""The demo's models, tiny: built side by side, kept when they fit, and read by the real services as they were trained."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from rewardmesh.client import AsyncClient, pair
from rewardmesh.demo.build import BuildConfig, build_metrics, build_models, demo_tokenizer, judge_prompt
from rewardmesh.demo.files import Settings, write_files
from rewardmesh.demo.guide import GuideConfig, train_guide
from rewardmesh.demo.parallel import JobFailed, run_parallel
from rewardmesh.engine.loading import read_model
from rewardmesh.trainer.fitting import FitConfig
from rewardmesh.trainer.recipe import Recipe
from rewardmesh.trainer.scratch import Shape
from tests_support import fails, reports, weights_digest

SHAPE = Shape(hidden=32, layers=1, intermediate=32, heads=2, context=256)
FIT = FitConfig(steps=3, batch_size=4)
GUIDE = GuideConfig(steps=3, batch_size=4)
TINY = BuildConfig(policy_shape=SHAPE, reward_shape=SHAPE, judge_shape=SHAPE, policy=FIT, reward=FIT, judge=FIT)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("models")
    return folder, build_models(folder, 0, TINY)


def test_models_load_and_a_second_build_keeps_them(built: tuple[Path, Any]) -> None:
    folder, models = built
    read_model(models.policy, "causal")
    read_model(models.reward, "classification")
    before = weights_digest(Path(models.judge))
    seen: list[tuple[Any, ...]] = []
    build_models(folder, 0, TINY, lambda *report: seen.append(report))
    assert [report[1:3] for report in seen] == [(1, 1)] * 3
    assert weights_digest(Path(models.judge)) == before
    assert set(build_metrics(folder)) == {"policy", "reward model", "judge"}


def test_the_guide_is_built_for_those_who_ask(built: tuple[Path, Any], tmp_path: Path) -> None:
    """From the policy there is, in a folder of its own; its settings build nothing else again."""
    folder = tmp_path / "models"
    shutil.copytree(built[0], folder)
    before = {part: weights_digest(folder / part / "model") for part in ("policy", "judge", "reward-model")}
    assert not (folder / "guide").exists()
    seen: list[tuple[Any, ...]] = []
    models = build_models(folder, 0, TINY, lambda *report: seen.append(report), guide=GUIDE)
    assert {report[0] for report in seen if report[1:3] == (1, 1)} == {"policy", "reward model", "judge"}
    assert [report[1:3] for report in seen if report[0] == "guide"] == [(1, 3), (2, 3), (3, 3)]
    assert weights_digest(Path(models.guide or "")) != before["policy"]
    assert {part: weights_digest(folder / part / "model") for part in before} == before
    assert set(build_metrics(folder, guide=True)["guide"]) == {"loss", "heldout_pair_accuracy"}
    seen.clear()
    build_models(folder, 0, TINY, lambda *report: seen.append(report), guide=GUIDE)
    assert [report[1:3] for report in seen] == [(1, 1)] * 4
    build_models(folder, 0, TINY, lambda *report: seen.append(report), guide=GuideConfig(steps=2, batch_size=4))
    assert [report[1:3] for report in seen if report[0] == "guide"][-1] == (2, 2)


def test_the_guide_learns_which_answer_is_better(built: tuple[Path, Any]) -> None:
    """Its loss begins at log 2, as it begins as its reference; some steps later it prefers the better side of pairs it never saw."""
    losses: list[float] = []
    config = GuideConfig(steps=40, batch_size=16, learning_rate=3e-3)
    _, metrics = train_guide(built[1].policy, demo_tokenizer(), 5, config, lambda step, steps, loss: losses.append(loss))
    assert losses[0] == pytest.approx(math.log(2), abs=1e-5)
    assert metrics["loss"] < 0.65
    assert metrics["heldout_pair_accuracy"] > 0.6


def test_the_same_seed_gives_the_same_weights(built: tuple[Path, Any], tmp_path: Path) -> None:
    again = build_models(tmp_path, 0, TINY)
    for name in ("policy", "reward", "judge"):
        assert weights_digest(Path(getattr(again, name))) == weights_digest(Path(getattr(built[1], name)))


async def test_the_judge_service_reads_the_text_the_judge_was_trained_on(built: tuple[Path, Any]) -> None:
    from rewardmesh import judge
    from rewardmesh.judge.template import read_template

    models = built[1]
    template = read_template(Path(models.judge_template))
    assert template.render({"prompt": "q", "a": "x\ny", "b": "z"}) == judge_prompt("q", "x\ny", "z")
    server = await judge.create_server(
        judge.Config(model=models.judge, templates=[models.judge_template], min_label_mass=0.0, drain_seconds=2)
    )
    await server.start()
    try:
        async with AsyncClient(server.address) as client:
            (verdict,) = await client.compare([pair("p", "Ada has 3 cups.", "#### 3", "#### 4")], template="demo-compare")
            assert verdict.value is not None
    finally:
        await server.stop()


def test_every_word_of_the_judge_is_in_the_vocabulary() -> None:
    tokenizer = demo_tokenizer()
    ids = tokenizer(judge_prompt("Ada has 12 cups.", "#### 3", "First 4 * 3 = 12"))["input_ids"]
    assert tokenizer.unk_token_id not in ids


def test_the_files_are_a_recipe_and_a_mesh(built: tuple[Path, Any], tmp_path: Path) -> None:
    files = write_files(tmp_path / "run", built[1], 3, Settings(steps=2))
    recipe = Recipe.load(files.recipe)
    assert recipe.seed == 3
    mesh = yaml.safe_load(files.mesh.read_text())
    assert set(mesh["services"]) == {"verifier", "working", "judge", "reference", "generation", "gateway"}
    lines = (tmp_path / "run" / "heldout.jsonl").read_text().splitlines()
    assert len({json.loads(line)["id"] for line in lines}) == 500


def test_a_job_that_fails_ends_the_others_and_says_why() -> None:
    heard: list[str] = []
    run_parallel([(reports, ())], heard.append)
    assert heard == ["half"]
    with pytest.raises(JobFailed, match="no such luck"):
        run_parallel([(fails, ())], None)
