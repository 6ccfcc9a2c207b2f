"""Reward-model training: the loss is Bradley-Terry's, it learns to order pairs, and it starts from files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from rewardmesh.serving.config import ConfigError
from rewardmesh.trainer.reward_model import RewardModelConfig, read_preference_file, tokenise, train_reward_model
from rewardmesh.trainer.scratch import Shape, new_model, train_tokenizer

SHAPE = Shape(hidden=32, layers=2, intermediate=64, heads=2, context=128)
WORDS = ("red", "green", "blue", "grey", "black", "white")


@pytest.fixture(scope="module")
def own_tokenizer() -> Any:
    return train_tokenizer([f"say {word} please no" for word in WORDS] * 10, 300)


def _pairs(tokenizer: Any) -> list[tuple[list[int], list[int]]]:
    return [tokenise(tokenizer, f"say {a}", f"{b} please", f"{b} no") for a in WORDS for b in WORDS]


def test_it_learns_which_side_is_chosen(own_tokenizer: Any) -> None:
    model = new_model("classification", own_tokenizer, SHAPE, seed=0)
    config = RewardModelConfig(steps=60, batch_size=8, learning_rate=5e-3, warmup_steps=5, heldout_fraction=0.25)
    result = train_reward_model(model, _pairs(own_tokenizer), config)
    assert result.accuracy == 1.0
    assert result.loss < 0.2
    assert result.pairs == 27


def test_the_loss_is_bradley_terry_with_the_centring_term(own_tokenizer: Any) -> None:
    pairs = _pairs(own_tokenizer)[:3]
    model = new_model("classification", own_tokenizer, SHAPE, seed=1).eval()
    with torch.no_grad():
        sides = [[float(model(torch.tensor(ids)[None]).logits[0, 0]) for ids in pair] for pair in pairs]
    expected = sum(0.5 * (a + b) ** 2 - float(torch.nn.functional.logsigmoid(torch.tensor(a - b))) for a, b in sides) / 3
    losses: list[float] = []
    config = RewardModelConfig(steps=1, batch_size=3, centre=0.5, heldout_fraction=0.0)
    train_reward_model(model, pairs, config, lambda step, steps, loss: losses.append(loss))
    assert losses[0] == pytest.approx(expected, rel=1e-4)


def test_files_are_read_and_bad_lines_named(tmp_path: Path, own_tokenizer: Any) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps({"prompt": "say red", "chosen": "red", "rejected": "blue"}) + "\n")
    ((chosen, rejected),) = read_preference_file(path, own_tokenizer)
    assert chosen != rejected
    path.write_text('{"prompt": "a", "chosen": "b"}\n')
    with pytest.raises(ConfigError, match=r"pairs\.jsonl:1: has no field 'rejected'"):
        read_preference_file(path, own_tokenizer)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_preference_file(tmp_path / "missing.jsonl", own_tokenizer)
