"""The embedded base of recipes: the demo's models, problems, reward program and services, made on the spot.

A recipe with `base: embedded` names its algorithm and what else differs. Its `embedded` section may change the reward program and the
services. The models are built once and shared by all recipes of a folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rewardmesh.demo.files import ModelPaths, Settings, demo_mesh, demo_recipe, write_program, write_prompts_files
from rewardmesh.serving.config import ConfigError, describe_errors
from rewardmesh.trainer.recipe_file import merged

SETTINGS = Settings(steps=20, prompts_per_step=16)
"""The demo's settings, but fewer steps and prompts: a recipe is to show within a minute that it learns."""

EVALUATED = 200
"""Held-out problems before and after; fewer than the demo's for the same reason."""

GUIDE = "guide"
"""Name of the guide at the log-prob service."""

POOL = 3
"""Training problems, as a multiple of what the steps take: samplers choose among prompts."""


class EmbeddedOptions(BaseModel):
    """The `embedded` section of a recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    models: Path = Field(Path("runs/embedded/models"), description="folder of the models, built when they are not there")
    models_seed: int = Field(0, description="seed the models are built with")
    program: dict[str, Any] = Field(default_factory=dict, description="reward program in place of the demo's")
    services: dict[str, Any] = Field(default_factory=dict, description="services of the mesh, merged over the demo's")
    guide: bool = Field(False, description="also build a preference-tuned copy of the policy, and pay tokens by its log-ratios")


def embedded_options(document: Mapping[str, Any], where: str) -> EmbeddedOptions:
    """The `embedded` section of a recipe document. Raises ConfigError naming `where` and the field."""
    try:
        return EmbeddedOptions.model_validate(document.get("embedded") or {})
    except ValidationError as error:
        raise ConfigError(describe_errors(error, f"{where}: embedded", EmbeddedOptions)) from error


def write_embedded(document: Mapping[str, Any], options: EmbeddedOptions, models: ModelPaths, run_dir: Path) -> tuple[dict[str, Any], Path]:
    """Write prompts, program and mesh into `run_dir`.

    Returns:
        The recipe's document over the base, without `base` and `embedded`, with references to services still in it; the mesh file.

    Raises:
        ConfigError: a guide is asked for, and there is none of this policy.
    """
    if options.guide and models.guide is None:
        raise ConfigError("embedded.guide: there is one of the embedded policy alone; leave out policy, or the guide")
    run_dir.mkdir(parents=True, exist_ok=True)
    seed = document.get("seed", 0)
    settings = Settings(**{**SETTINGS.__dict__, **_sizes(document)})
    write_prompts_files(run_dir, seed if isinstance(seed, int) else 0, replace(settings, steps=POOL * settings.steps))
    name = write_program(run_dir, models, options.program)
    mesh = merged(demo_mesh(run_dir, models), {"services": options.services})
    if options.guide:
        mesh = merged(mesh, {"services": {"reference": {"policies": {GUIDE: models.guide}}}})
    mesh_path = run_dir / "mesh.yaml"
    mesh_path.write_text(yaml.safe_dump(mesh, sort_keys=False))
    base = demo_recipe(run_dir, models, 0, settings)
    base["program"] = name
    if options.guide:
        base["guide_policy"] = GUIDE
    base["evaluation"]["n"] = EVALUATED
    own = {key: value for key, value in document.items() if key not in {"base", "embedded"}}
    return merged(base, {**own, "run_dir": str(run_dir)}), mesh_path


def _sizes(document: Mapping[str, Any]) -> dict[str, int]:
    """What decides how many prompts there must be; wrong values are left to the recipe's own check."""
    sampling = document.get("sampling")
    given = {
        "steps": document.get("steps"),
        "prompts_per_step": sampling.get("prompts_per_step") if isinstance(sampling, Mapping) else None,
    }
    return {key: value for key, value in given.items() if isinstance(value, int) and value > 0}
