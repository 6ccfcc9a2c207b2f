"""Small judges for one experiment each: a tokenizer of their words, training on labelled texts, and a folder that keeps the result.

A judge whose folder names the same settings is not trained again.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from rewardmesh.demo.build import JUDGE_TEXT
from rewardmesh.demo.problems import Problem, generate
from rewardmesh.demo.tokenizer import build_word_tokenizer
from rewardmesh.engine.loading import write_version
from rewardmesh.trainer.fitting import OnFit
from rewardmesh.trainer.scratch import Shape, new_model
from rewardmesh.trainer.sft import SFTConfig, finetune, tokenise

LABELS = ("A", "B")
CONTEXT = 1024
Example = Callable[[Problem, random.Random], tuple[str, str]]
"""What the judge reads for a problem, and the label it should say."""


@dataclass(frozen=True)
class Recipe:
    """How a judge is trained.

    Attributes:
        name: its folder.
        example: draws one labelled text a problem.
        words: texts that its vocabulary covers beside those of a sample of its examples.
        settings: what `example` depends on, for the manifest.
        steps: of 16 examples each.
    """

    name: str
    example: Example
    words: Sequence[str]
    settings: dict[str, Any]
    steps: int
    seed: int = 0
    learning_rate: float = 4.5e-3
    prompt_weight: float = 0.03
    batch_size: int = 16


def model_folder(folder: Path, recipe: Recipe) -> Path:
    """Where `train` puts the model."""
    return folder / recipe.name / "model"


def manifest(recipe: Recipe) -> dict[str, Any]:
    """What a judge depends on; `example` and `words` by the settings that stand for them."""
    kept = asdict(recipe)
    del kept["example"], kept["words"]
    return kept


def is_trained(folder: Path, recipe: Recipe) -> bool:
    """Whether its folder holds a judge of the same settings."""
    path = folder / recipe.name / "built.json"
    return path.is_file() and json.loads(path.read_text()) == manifest(recipe)


def train(folder: Path, recipe: Recipe, on_step: OnFit) -> None:
    """Train a judge on one thread, whatever was there before."""
    torch.set_num_threads(1)
    shutil.rmtree(folder / recipe.name, ignore_errors=True)
    rng = random.Random(f"{recipe.name}-{recipe.seed}")
    problems = generate(recipe.steps * recipe.batch_size, recipe.seed + 20, "train")
    examples = [recipe.example(problem, rng) for problem in problems]
    tokenizer = judge_tokenizer([*(text for text, _ in examples[:4000]), *recipe.words])
    pairs = [tokenise(tokenizer, text, label) for text, label in examples]
    model = new_model("causal", tokenizer, Shape(hidden=128, layers=3, intermediate=384, heads=4, context=CONTEXT), recipe.seed)
    config = SFTConfig(
        steps=recipe.steps,
        batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        prompt_weight=recipe.prompt_weight,
        max_tokens=CONTEXT,
        seed=recipe.seed,
    )
    finetune(model, pairs, config, on_step)
    write_version(model_folder(folder, recipe), model, tokenizer)
    (folder / recipe.name / "built.json").write_text(json.dumps(manifest(recipe), indent=1))


def judge_tokenizer(texts: Iterable[str]) -> Any:
    """A word tokenizer that knows the labels and whole numbers below 100, with and without a space before them."""
    numbers = [f"{space}{number}" for space in ("", " ") for number in range(10, 100)]
    return build_word_tokenizer([*texts, *LABELS], numbers, CONTEXT)


def plain_text(question: str, a: str, b: str) -> str:
    """The template of the demo's judge: what stands where is told apart by nothing but a line before it."""
    text = JUDGE_TEXT
    # Last one first, so that nothing is put into what was put in before.
    for name, value in (("{{ b }}", b), ("{{ a }}", a), ("{{ prompt }}", question)):
        before, _, after = text.partition(name)
        text = f"{before}{value}{after}"
    return text
