"""The demo's files: prompts, reward program, mesh and recipe, each as a user would write it.

They refer to services by name (`${services.gateway.address}`), so `rewardmesh train recipe.yaml --mesh mesh.yaml` runs them again, with
other models too.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rewardmesh.demo.problems import Problem, generate

PROGRAM = """\
# What is right counts most; the reward model and the judge look at the working.
name: demo
signals:
  correct: {verifier: math, options: {answer_marker: "####"}}
  working: {reward: working}
  prefer: {judge: JUDGE, mode: compare, against: group}
reward:
  sum:
    - {of: correct, weight: 0.7}
    - {of: working, shape: {sigmoid: {centre: 0.0}}, weight: 0.2}
    - {of: prefer, weight: 0.1}
# Training waits for the verifier and the reward model; without the judge a pair counts as a tie.
on_absence: {correct: wait, working: wait, prefer: fallback(0.5)}
"""

HELDOUT = 500

JUDGE_TEMPLATE = "demo-compare"
BUILT_IN_TEMPLATE = "compare"
"""What the judge reads: the demo's own template, or for a judge from elsewhere the one that comes with the service."""


@dataclass(frozen=True)
class Settings:
    """What was tuned on two cores; everything else is the recipe's default."""

    steps: int = 60
    prompts_per_step: int = 32
    completions: int = 4
    temperature: float = 0.8
    max_tokens: int = 56
    learning_rate: float = 4e-4
    beta: float = 0.1
    reward_temperature: float = 0.3


@dataclass(frozen=True)
class ModelPaths:
    """Model directories (or hub names) the demo serves and trains."""

    policy: str
    reward: str
    judge: str
    judge_template: str | None
    guide: str | None = None
    """A copy of the policy that was tuned on preferences; only recipes that say so have one."""


@dataclass(frozen=True)
class DemoFiles:
    """What `write_files` wrote."""

    mesh: Path
    recipe: Path


def write_files(run_dir: Path, models: ModelPaths, seed: int, settings: Settings) -> DemoFiles:
    """Write prompts, program, mesh and recipe into the run's folder."""
    run_dir.mkdir(parents=True, exist_ok=True)
    write_prompts_files(run_dir, seed, settings)
    write_program(run_dir, models)
    files = DemoFiles(run_dir / "mesh.yaml", run_dir / "recipe.yaml")
    files.mesh.write_text(yaml.safe_dump(demo_mesh(run_dir, models), sort_keys=False))
    files.recipe.write_text(yaml.safe_dump(demo_recipe(run_dir, models, seed, settings), sort_keys=False))
    return files


def write_prompts_files(run_dir: Path, seed: int, settings: Settings) -> None:
    """train.jsonl, as many problems as the steps take, and heldout.jsonl."""
    count = settings.steps * settings.prompts_per_step
    _write_prompts(run_dir / "train.jsonl", generate(count, seed + 1000, "train"))
    # Another seed than the one the settings were chosen on.
    _write_prompts(run_dir / "heldout.jsonl", generate(HELDOUT, seed + 100, "heldout"))


def write_program(run_dir: Path, models: ModelPaths, program: Mapping[str, Any] | None = None) -> str:
    """program.yaml: the demo's, or `program`; returns its name. The text JUDGE stands for the judge template there is."""
    text = yaml.safe_dump(dict(program), sort_keys=False) if program else PROGRAM
    text = text.replace("JUDGE", JUDGE_TEMPLATE if models.judge_template else BUILT_IN_TEMPLATE)
    (run_dir / "program.yaml").write_text(text)
    name: str = yaml.safe_load(text).get("name", "")
    return name


def _write_prompts(path: Path, problems: Iterable[Problem]) -> None:
    lines = [json.dumps({"id": p.id, "prompt": p.question, "references": [f"#### {p.final}"], "worked": p.answer}) for p in problems]
    path.write_text("\n".join(lines) + "\n")


def demo_mesh(run_dir: Path, models: ModelPaths) -> dict[str, Any]:
    """The services of the demo, as mesh.yaml says them."""
    # One thread each: the services work side by side; batch-invariant, so that a resumed run is equal to the bit.
    scorer: dict[str, Any] = {"threads": 1, "batch_invariant": True}
    templates = {"templates": [models.judge_template], "default_template": JUDGE_TEMPLATE} if models.judge_template else {}
    return {
        "log_dir": str(run_dir / "logs"),
        "services": {
            "verifier": {"kind": "verifier", "workers": 2},
            "working": {"kind": "reward", "name": "working", "model": models.reward, **scorer},
            "judge": {"kind": "judge", "model": models.judge, **templates, **scorer},
            "reference": {"kind": "logprob", "name": "reference", "model": models.policy, **scorer},
            "generation": {"kind": "generation", "model": models.policy, "threads": 2},
            "gateway": {
                "kind": "gateway",
                "programs": [str(run_dir / "program.yaml")],
                "backends": {
                    "verifier": "${services.verifier.address}",
                    "reward": "${services.working.address}",
                    "judge": "${services.judge.address}",
                },
            },
        },
    }


def demo_recipe(run_dir: Path, models: ModelPaths, seed: int, settings: Settings) -> dict[str, Any]:
    """The demo's recipe."""
    services = {"gateway": "gateway", "generation": "generation", "logprob": "reference", "verifier": "verifier"}
    return {
        "run_dir": str(run_dir),
        "policy": models.policy,
        "prompts": {"path": str(run_dir / "train.jsonl")},
        "services": {role: f"${{services.{name}.address}}" for role, name in services.items()},
        "program": "demo",
        "algorithm": {"name": "online_dpo", "beta": settings.beta, "reward_temperature": settings.reward_temperature},
        "sampling": {
            "prompts_per_step": settings.prompts_per_step,
            "completions": settings.completions,
            "temperature": settings.temperature,
            "max_tokens": settings.max_tokens,
        },
        "optimiser": {"learning_rate": settings.learning_rate, "warmup_steps": 3, "schedule": "linear"},
        "evaluation": {"prompts": {"path": str(run_dir / "heldout.jsonl")}, "n": HELDOUT},
        "steps": settings.steps,
        "seed": seed,
        "checkpoint_every": 10,
        "metrics_port": 0,
        "threads": 2,
    }
