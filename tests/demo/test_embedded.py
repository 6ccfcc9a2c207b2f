"""Every recipe of the tree fits the embedded base; what the base writes is complete."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from rewardmesh.cli.mesh_file import MeshFile
from rewardmesh.cli.references import substitute
from rewardmesh.demo.build import model_paths
from rewardmesh.demo.embedded import embedded_options, write_embedded
from rewardmesh.gateway.program import parse_program
from rewardmesh.serving.config import ConfigError
from rewardmesh.trainer.algorithms import known_algorithms, load_algorithm
from rewardmesh.trainer.algorithms._dense import DensePPO
from rewardmesh.trainer.recipe import Recipe
from rewardmesh.trainer.recipe_file import read_recipe

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))


def over_the_base(document: dict[str, Any], folder: Path) -> tuple[Recipe, Path]:
    options = embedded_options(document, "r.yaml")
    document, mesh_path = write_embedded(document, options, model_paths(options.models), folder)
    nowhere = MeshFile.load(mesh_path).nowhere
    return Recipe.parse(substitute(document, nowhere, "r.yaml"), "r.yaml"), mesh_path


def test_there_is_a_recipe_for_every_algorithm() -> None:
    named = {read_recipe(path)["algorithm"]["name"] for path in RECIPES}
    assert set(known_algorithms()) - named == set()


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_fits_the_embedded_base(path: Path, tmp_path: Path) -> None:
    document = read_recipe(path)
    assert document["base"] == "embedded"
    recipe, _ = over_the_base(document, tmp_path)
    assert recipe.about is not None
    assert recipe.steps <= 40
    name = yaml.safe_load((tmp_path / "program.yaml").read_text())["name"]
    assert recipe.program == name
    parse_program((tmp_path / "program.yaml").read_text(), "program.yaml")
    assert len((tmp_path / "train.jsonl").read_text().splitlines()) >= recipe.steps * recipe.sampling.prompts_per_step


def test_the_embedded_section(tmp_path: Path) -> None:
    program = {
        "name": "own",
        "signals": {"c": {"verifier": "math"}},
        "reward": {"sum": [{"of": "c", "weight": 1.0}]},
        "on_absence": {"c": "wait"},
    }
    services = {"verifier": {"workers": 1}, "extra": {"kind": "verifier"}}
    document = {"base": "embedded", "algorithm": {"name": "ppo"}, "embedded": {"program": program, "services": services}, "seed": 3}
    recipe, mesh_path = over_the_base(document, tmp_path)
    assert recipe.program == "own"
    assert recipe.seed == 3
    mesh = yaml.safe_load(mesh_path.read_text())["services"]
    assert mesh["verifier"] == {"kind": "verifier", "workers": 1}
    assert mesh["extra"] == {"kind": "verifier"}
    assert recipe.guide_policy == ""
    with pytest.raises(ConfigError, match=r"r\.yaml: embedded: servces: unknown field \(did you mean 'services'\?\)"):
        embedded_options({"embedded": {"servces": {}}}, "r.yaml")


def test_a_guide_is_a_second_policy_beside_the_reference(tmp_path: Path) -> None:
    document = {"base": "embedded", "algorithm": {"name": "rto"}, "embedded": {"guide": True, "models": "m"}}
    recipe, mesh_path = over_the_base(document, tmp_path)
    assert (recipe.reference_policy, recipe.guide_policy) == ("reference", "guide")
    reference = yaml.safe_load(mesh_path.read_text())["services"]["reference"]
    assert (reference["name"], reference["policies"]) == ("reference", {"guide": str(Path("m/guide/model"))})
    with pytest.raises(ConfigError, match=r"embedded\.guide: there is one of the embedded policy alone"):
        write_embedded(document, embedded_options(document, "r"), replace(model_paths(Path("m")), policy="another", guide=None), tmp_path)


def test_algorithms_that_need_token_rewards_have_them() -> None:
    """From a guide, or from a signal that wants them; only critiques have no source on the embedded mesh."""
    found = set()
    for path in RECIPES:
        document = read_recipe(path)
        algorithm = load_algorithm(document["algorithm"]["name"], {k: v for k, v in document["algorithm"].items() if k != "name"})
        needs = (isinstance(algorithm, DensePPO) and not algorithm.reads_spans) or getattr(algorithm, "needs_token_rewards", False)
        if not needs:
            continue
        found.add(path.stem)
        embedded = document["embedded"]
        signals = embedded.get("program", {}).get("signals", {}).values()
        assert embedded.get("guide") or any("tokens" in signal.get("want", []) for signal in signals), path.stem
        assert "without_token_rewards" not in document["algorithm"], path.stem
    assert found >= {"abc_ppo", "rto", "tgdpo"}
