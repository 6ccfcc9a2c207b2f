"""Builds the demo's models on the spot: a policy that imitates mixed demonstrations, a reward model and a judge of the working.

A fourth, the guide (see `guide`), is built from the policy for those who ask for it.

A part whose manifest names the same settings and seed is kept, so that a second run starts at once.
"""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import BaseModel, ConfigDict

from rewardmesh.client import messages
from rewardmesh.demo.answers import pair_of_different_quality, pair_of_same_quality
from rewardmesh.demo.files import JUDGE_TEMPLATE, ModelPaths
from rewardmesh.demo.guide import GuideConfig, train_guide
from rewardmesh.demo.parallel import run_parallel
from rewardmesh.demo.problems import Problem, as_written, generate
from rewardmesh.demo.tokenizer import build_word_tokenizer
from rewardmesh.engine.loading import write_version
from rewardmesh.engine.log_probs import next_token_log_probs
from rewardmesh.engine.text import prompt_ids
from rewardmesh.trainer.fitting import FitConfig, OnFit
from rewardmesh.trainer.reward_model import RewardModelConfig, train_reward_model
from rewardmesh.trainer.reward_model import tokenise as tokenise_pair
from rewardmesh.trainer.scratch import Shape, new_model
from rewardmesh.trainer.sft import SFTConfig, finetune, tokenise

Part = Literal["policy", "reward model", "judge", "guide"]
PARTS: tuple[Part, ...] = ("policy", "reward model", "judge")
Progress = Callable[[Part, int, int, float], None]
"""Called with (part, step, steps, loss); a part that is kept reports its last step at once."""

JUDGE_TEXT = "{{ prompt }}\nAnswer A\n{{ a }}\nAnswer B\n{{ b }}\nWhich is better?"
JUDGE_LABELS = {"a": "A", "b": "B", "tie": "T"}


class BuildConfig(BaseModel):
    """Sizes and lengths that were tuned on two cores."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    policy_shape: Shape = Shape(hidden=192, layers=3, intermediate=512, heads=3, context=256)
    reward_shape: Shape = Shape(hidden=128, layers=2, intermediate=384, heads=4, context=256)
    judge_shape: Shape = Shape(hidden=128, layers=3, intermediate=384, heads=4, context=256)
    policy: FitConfig = FitConfig(steps=800, learning_rate=4.5e-3)
    policy_prompt_weight: float = 0.3
    judge_prompt_weight: float = 0.2
    reward: FitConfig = FitConfig(steps=450, learning_rate=4.5e-3)
    judge: FitConfig = FitConfig(steps=450, learning_rate=4.5e-3)


def build_models(
    folder: Path, seed: int, config: BuildConfig | None = None, progress: Progress | None = None, *, guide: GuideConfig | None = None
) -> ModelPaths:
    """Build what is not there yet, the guide only where it is given; returns the model directories."""
    config = config or BuildConfig()
    parts: tuple[Part, ...] = (*PARTS, *(("guide",) if guide else ()))
    missing = [part for part in parts if not _is_built(_path(folder, part), _manifest(part, seed, config, guide))]
    for part in parts:
        if progress and part not in missing:
            progress(part, 1, 1, 0.0)
    # The policy takes as long as the other two together; one thread each is faster than two threads for one. The guide starts from it.
    shares = [[part for part in missing if part in ("policy", "guide")], [part for part in missing if part in ("reward model", "judge")]]
    run_parallel([(build_parts, (folder, share, seed, config, guide)) for share in shares if share], progress)
    return model_paths(folder)


def model_paths(folder: Path) -> ModelPaths:
    """Where `build_models` puts the models."""
    return ModelPaths(
        policy=str(folder / "policy" / "model"),
        reward=str(folder / "reward-model" / "model"),
        judge=str(folder / "judge" / "model"),
        judge_template=str(folder / "judge" / "template.yaml"),
        guide=str(folder / "guide" / "model"),
    )


def build_parts(folder: Path, parts: list[Part], seed: int, config: BuildConfig, guide: GuideConfig | None, progress: Progress) -> None:
    """Build parts one after the other, on one thread: the same seed gives the same weights whatever the machine's core count."""
    torch.set_num_threads(1)
    tokenizer = demo_tokenizer()
    makers = {"policy": _policy, "reward model": _reward, "judge": _judge}
    for part in parts:
        path = _path(folder, part)
        shutil.rmtree(path, ignore_errors=True)

        def on_step(step: int, steps: int, loss: float, part: Part = part) -> None:
            progress(part, step, steps, loss)

        if part == "guide":
            model, metrics = train_guide(model_paths(folder).policy, tokenizer, seed + 4, guide or GuideConfig(), on_step)
        else:
            model, metrics = makers[part](tokenizer, seed, config, on_step)
        write_version(path / "model", model, tokenizer)
        if part == "judge":
            template = {"name": JUDGE_TEMPLATE, "kind": "compare", "labels": JUDGE_LABELS, "text": JUDGE_TEXT}
            (path / "template.yaml").write_text(yaml.safe_dump(template, sort_keys=False))
        manifest = {**_manifest(part, seed, config, guide), "metrics": metrics}
        (path / "built.json").write_text(json.dumps(manifest, indent=1))


def build_metrics(folder: Path, *, guide: bool = False) -> dict[str, dict[str, float]]:
    """What each part reached when it was built: losses, and accuracy on pairs it never saw."""
    parts: tuple[Part, ...] = (*PARTS, *(("guide",) if guide else ()))
    return {part: json.loads((_path(folder, part) / "built.json").read_text())["metrics"] for part in parts}


def demo_tokenizer() -> Any:
    """One tokenizer for all three: every word of the problems, whole numbers below 100, and the judge's own words."""
    problems = generate(4000, 99, "train")
    texts = [text for problem in problems for text in (problem.question, problem.answer)]
    numbers = [f"{space}{number}" for space in ("", " ") for number in range(10, 100)]
    return build_word_tokenizer([*texts, JUDGE_TEXT, *JUDGE_LABELS.values()], numbers)


def judge_prompt(question: str, a: str, b: str) -> str:
    """What the judge reads; the judge service renders the same text."""
    return ImmutableSandboxedEnvironment().from_string(JUDGE_TEXT).render(prompt=question, a=a, b=b)


def _path(folder: Path, part: Part) -> Path:
    return folder / part.replace(" ", "-")


def _manifest(part: Part, seed: int, config: BuildConfig, guide: GuideConfig | None) -> dict[str, Any]:
    """What a part depends on; the guide's settings change no other part."""
    found = {"seed": seed, "config": config.model_dump(mode="json")}
    return {**found, "guide": guide.model_dump(mode="json")} if part == "guide" and guide else found


def _is_built(path: Path, wanted: dict[str, Any]) -> bool:
    manifest = path / "built.json"
    if not manifest.is_file():
        return False
    built = json.loads(manifest.read_text())
    return all(built.get(key) == value for key, value in wanted.items())


def _policy(tokenizer: Any, seed: int, config: BuildConfig, on_step: OnFit) -> tuple[Any, dict[str, float]]:
    fit = config.policy.model_copy(update={"seed": seed})
    problems = generate(fit.steps * fit.batch_size, seed, "train")
    pairs = [tokenise(tokenizer, problem.question, text) for problem, text in zip(problems, as_written(problems, seed), strict=True)]
    model = new_model("causal", tokenizer, config.policy_shape, seed)
    result = finetune(model, pairs, SFTConfig(prompt_weight=config.policy_prompt_weight, **fit.model_dump()), on_step)
    return model, {"loss": result.loss}


def _reward(tokenizer: Any, seed: int, config: BuildConfig, on_step: OnFit) -> tuple[Any, dict[str, float]]:
    rng = random.Random(seed + 1)
    fit = config.reward.model_copy(update={"seed": seed})
    pairs = []
    for problem in generate(fit.steps * fit.batch_size + 500, seed + 1, "train"):
        better, worse = pair_of_different_quality(problem, rng)
        pairs.append(tokenise_pair(tokenizer, problem.question, better.text, worse.text))
    model = new_model("classification", tokenizer, config.reward_shape, seed + 1)
    heldout = 500 / len(pairs)
    result = train_reward_model(model, pairs, RewardModelConfig(heldout_fraction=heldout, **fit.model_dump()), on_step)
    return model, {"loss": result.loss, "heldout_pair_accuracy": result.accuracy}


def _judge(tokenizer: Any, seed: int, config: BuildConfig, on_step: OnFit) -> tuple[Any, dict[str, float]]:
    rng = random.Random(seed + 2)
    fit = config.judge.model_copy(update={"seed": seed})
    problems = generate(fit.steps * fit.batch_size, seed + 2, "train")
    pairs = [tokenise(tokenizer, text, label) for text, label in (_comparison(problem, rng) for problem in problems)]
    model = new_model("causal", tokenizer, config.judge_shape, seed + 2)
    result = finetune(model, pairs, SFTConfig(prompt_weight=config.judge_prompt_weight, **fit.model_dump()), on_step)
    unseen = [_comparison(problem, rng) for problem in generate(400, seed + 3, "heldout")]
    return model, {"loss": result.loss, **judge_accuracy(model, tokenizer, unseen)}


def _comparison(problem: Problem, rng: random.Random) -> tuple[str, str]:
    """(text, label) of one comparison: a tie one time in five, else the better answer on either side."""
    if rng.random() < 0.2:
        first, second = pair_of_same_quality(problem, rng)
    else:
        first, second = pair_of_different_quality(problem, rng)
        if rng.random() < 0.5:
            first, second = second, first
    label = "T" if first.quality == second.quality else "A" if first.quality > second.quality else "B"
    return judge_prompt(problem.question, first.text, second.text), label


def judge_accuracy(model: Any, tokenizer: Any, comparisons: list[tuple[str, str]]) -> dict[str, float]:
    """Share of comparisons whose most probable label is right; and where one answer is better, how often it gets more than the other."""
    labels = list(JUDGE_LABELS.values())
    prompts = [prompt_ids(tokenizer, messages(text)) for text, _ in comparisons]
    with torch.inference_mode():
        scores, _ = next_token_log_probs(model, prompts, [tokenizer.convert_tokens_to_ids(label) for label in labels], packed=True)
    found = scores.tolist()
    right = [labels[row.index(max(row))] == label for row, (_, label) in zip(found, comparisons, strict=True)]
    decided = [(row[0] > row[1]) == (label == "A") for row, (_, label) in zip(found, comparisons, strict=True) if label != "T"]
    return {"heldout_accuracy": sum(right) / len(right), "heldout_accuracy_without_ties": sum(decided) / len(decided)}
