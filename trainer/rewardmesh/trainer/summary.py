"""summary.json: what a run came to, with reward and quality side by side so that nobody mistakes one for the other."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from rewardmesh.trainer.atomic import atomic_file
from rewardmesh.trainer.evaluation import Answers, mean_scores
from rewardmesh.trainer.ledger import LedgerCount
from rewardmesh.trainer.mesh import Mesh
from rewardmesh.trainer.recipe import Recipe
from rewardmesh.trainer.samples import Scores


def summarise(
    recipe: Recipe,
    mesh: Mesh,
    history: Sequence[Mapping[str, object]],
    counted: LedgerCount,
    before: Mapping[str, Answers],
    after: Mapping[str, Answers],
    scores: tuple[Sequence[Scores], Sequence[Scores]],
) -> dict[str, object]:
    """The summary of a finished run; figures that were not measured are left out."""
    summary: dict[str, object] = {
        "finished": True,
        "algorithm": recipe.algorithm["name"],
        "policy": recipe.policy,
        "seed": recipe.seed,
        "steps": counted.steps,
        "samples": counted.samples,
        "samples_without_reward": counted.absent,
        "seconds_per_step": _mean(history, "seconds_total"),
        "reward_wait_fraction": _mean(history, "seconds_score") / max(_mean(history, "seconds_total"), 1e-9),
        "kl": history[-1].get("kl") if history else None,
        "requests": dict(sorted(mesh.requests.items())),
        "absences": absences_by_service(mesh),
        "versions": dict(sorted(mesh.versions.items())),
    }
    if before and after:
        summary["heldout_n"] = len(after["sampled"].prompts)
        for when, answers, compared in (("before", before, scores[0]), ("after", after, scores[1])):
            reward, components = mean_scores(compared)
            summary[f"heldout_accuracy_{when}"] = answers["sampled"].accuracy
            summary[f"heldout_greedy_accuracy_{when}"] = answers["greedy"].accuracy
            summary[f"reward_{when}"] = reward
            summary[f"components_{when}"] = components
            summary[f"length_{when}"] = answers["sampled"].length
    return summary


def absences_by_service(mesh: Mesh) -> dict[str, dict[str, int]]:
    """Absences met, by service or signal and reason; every service that was called is named, most with none."""
    table: dict[str, dict[str, int]] = {name: {} for name in sorted(mesh.requests)}
    for (service, reason), count in sorted(mesh.absences.items()):
        table.setdefault(service, {})[reason] = count
    return table


def write_json(path: Path, value: Mapping[str, object]) -> None:
    """Write a JSON object whole or not at all; numbers that are not finite become null."""
    with atomic_file(path) as stream:
        stream.write(json.dumps(_plain(value), indent=2).encode() + b"\n")


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _mean(history: Sequence[Mapping[str, object]], name: str) -> float:
    values = [value for row in history if isinstance(value := row.get(name), int | float)]
    return float(np.mean(values)) if values else float("nan")
