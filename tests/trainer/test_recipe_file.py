"""Recipe files: bases, changes from the command line, and mistakes that name the file, the field and the nearest known name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from rewardmesh.serving.config import ConfigError
from rewardmesh.trainer.recipe import Recipe
from rewardmesh.trainer.recipe_file import merged, read_recipe

WHOLE = {
    "run_dir": "run",
    "policy": "model",
    "prompts": {"path": "p.jsonl"},
    "services": {"gateway": "127.0.0.1:1", "generation": "127.0.0.1:2", "logprob": "127.0.0.1:3"},
    "algorithm": {"name": "online_dpo", "beta": 0.3},
    "sampling": {"completions": 4},
}


def write(folder: Path, name: str, document: dict[str, Any]) -> Path:
    path = folder / name
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


def test_a_recipe_says_what_differs_from_its_base(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", WHOLE)
    write(tmp_path, "middle.yaml", {"base": "base.yaml", "sampling": {"temperature": 0.5}, "algorithm": {"beta": 0.2}})
    path = write(tmp_path, "top.yaml", {"base": "middle.yaml", "steps": 7})
    recipe = Recipe.load(path)
    assert (recipe.steps, recipe.sampling.completions, recipe.sampling.temperature) == (7, 4, 0.5)
    assert recipe.algorithm == {"name": "online_dpo", "beta": 0.2}


def test_a_named_algorithm_replaces_the_base_with_its_options() -> None:
    assert merged(WHOLE, {"algorithm": {"name": "ppo", "clip": 0.1}})["algorithm"] == {"name": "ppo", "clip": 0.1}
    assert merged({"a": [1, 2]}, {"a": [3]}) == {"a": [3]}
    assert WHOLE["algorithm"] == {"name": "online_dpo", "beta": 0.3}


def test_bases_that_cannot_be_used(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", {"base": "b.yaml"})
    write(tmp_path, "b.yaml", {"base": "a.yaml"})
    with pytest.raises(ConfigError, match=r"a\.yaml: base: leads back to itself"):
        read_recipe(tmp_path / "a.yaml")
    with pytest.raises(ConfigError, match=r"base: there is no file .*nowhere\.yaml; name another recipe, or embedded"):
        read_recipe(write(tmp_path, "c.yaml", {"base": "nowhere.yaml"}))
    with pytest.raises(ConfigError, match=r"base: must be embedded or the path of another recipe, is 3"):
        read_recipe(write(tmp_path, "d.yaml", {"base": 3}))


def test_changes(tmp_path: Path) -> None:
    path = write(tmp_path, "r.yaml", {**WHOLE, "samplers": [{"name": "x", "of": 1}]})
    changes = ["algorithm.beta=1e-2", "optimiser.betas=[0.8, 0.9]", "evaluation.prompts.path=h.jsonl", "samplers.0.of=2", "run_dir=a=b"]
    document = read_recipe(path, changes)
    assert document["optimiser"] == {"betas": [0.8, 0.9]}
    assert document["evaluation"] == {"prompts": {"path": "h.jsonl"}}
    assert document["samplers"] == [{"name": "x", "of": 2}]
    assert document["run_dir"] == "a=b"
    del document["samplers"], document["evaluation"]
    assert Recipe.parse(document).make_algorithm().config.model_dump()["beta"] == 0.01


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("steps", "--set steps: must be path.to.field=value"),
        (".=3", "must be path.to.field=value"),
        ("samplers.1.of=2", "samplers.1: the list has places 0 to 0"),
        ("samplers.0.of.x=2", "samplers.0.of: is no section"),
        ("steps={a", "the value is not YAML"),
    ],
)
def test_changes_that_are_none(tmp_path: Path, change: str, message: str) -> None:
    path = write(tmp_path, "r.yaml", {**WHOLE, "samplers": [{"name": "x", "of": 1}]})
    with pytest.raises(ConfigError) as caught:
        read_recipe(path, [change])
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("sampling.temprature=1", "sampling.temprature: unknown field (did you mean 'temperature'?)"),
        ("optimizer=1", "optimizer: unknown field (did you mean 'optimiser'?)"),
        ("algorithm.betta=1", "algorithm: betta: unknown field (did you mean 'beta'?)"),
        ("algorithm.name=online_dop", "algorithm.name: unknown algorithm 'online_dop' (did you mean 'online_dpo'?)"),
        ("algorithm.name=5", "algorithm.name: is missing"),
        ("algorithm={name: remax}", "samplers: remax has nothing to learn from without {name: greedy}"),
        ("algorithm={name: dpa}", "samplers: dpa has nothing to learn from without {name: direction}"),
        ("algorithm={name: xpo}", "samplers: xpo has nothing to learn from without {name: opponent}"),
        ("evaluation.prompts.pth=x", "evaluation.prompts.pth: unknown field (did you mean 'path'?)"),
        ("steps=no", "steps: Input should be"),
        ("steps=-1", "steps: Input should be greater than or equal to 1 (got '-1')"),
    ],
)
def test_mistakes_name_the_field_and_the_nearest_name(tmp_path: Path, change: str, message: str) -> None:
    path = write(tmp_path, "r.yaml", WHOLE)
    with pytest.raises(ConfigError) as caught:
        Recipe.load(path, [change])
    assert str(path) in str(caught.value)
    assert message in str(caught.value)
