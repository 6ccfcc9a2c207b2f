"""Supervised fine-tuning: it learns, its loss is what its docstring says, and bad files are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rewardmesh.serving.config import ConfigError
from rewardmesh.trainer.fitting import FitConfig, TrainingFailed, fit
from rewardmesh.trainer.scratch import Shape, new_model, train_tokenizer
from rewardmesh.trainer.sft import SFTConfig, finetune, read_sft_file, tokenise

SHAPE = Shape(hidden=32, layers=2, intermediate=64, heads=2, context=128)
TEXTS = [f"say {word}" for word in ("red", "green", "blue", "grey")]


@pytest.fixture(scope="module")
def own_tokenizer() -> Any:
    return train_tokenizer(TEXTS * 10, 300)


def test_it_learns_to_answer(own_tokenizer: Any) -> None:
    pairs = [tokenise(own_tokenizer, text, text.removeprefix("say ")) for text in TEXTS]
    model = new_model("causal", own_tokenizer, SHAPE, seed=0)
    losses: list[float] = []
    config = SFTConfig(steps=120, batch_size=4, learning_rate=1e-2, warmup_steps=5)
    result = finetune(model, pairs, config, lambda step, steps, loss: losses.append(loss))
    assert len(losses) == 120
    assert result.loss < 0.1 < losses[0]
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_the_same_seed_gives_the_same_weights(own_tokenizer: Any) -> None:
    pairs = [tokenise(own_tokenizer, text, "yes") for text in TEXTS]
    states = []
    for _ in range(2):
        model = new_model("causal", own_tokenizer, SHAPE, seed=3)
        finetune(model, pairs, SFTConfig(steps=5, batch_size=2, seed=3))
        states.append(model.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize("prompt_weight", [0.0, 0.3])
def test_the_loss_is_the_weighted_sum_over_what_a_batch_holds_on_average(own_tokenizer: Any, prompt_weight: float) -> None:
    pairs = [tokenise(own_tokenizer, "say red", "red"), tokenise(own_tokenizer, "say green or blue", "green green")]
    model = new_model("causal", own_tokenizer, SHAPE, seed=0).eval()
    expected = 0.0
    with torch.no_grad():
        for prompt, completion in pairs:
            ids = torch.tensor([*prompt, *completion])[None]
            log_probs = torch.log_softmax(model(ids).logits[0].double(), dim=-1)[:-1].gather(1, ids[0, 1:, None])[:, 0]
            weights = torch.tensor([prompt_weight] * (len(prompt) - 1) + [1.0] * len(completion), dtype=torch.float64)
            expected -= float((weights * log_probs).sum())
    mean_tokens = sum(len(completion) for _, completion in pairs) / 2
    losses: list[float] = []
    config = SFTConfig(steps=1, batch_size=2, prompt_weight=prompt_weight)
    finetune(model, pairs, config, lambda step, steps, loss: losses.append(loss))
    assert losses[0] == pytest.approx(expected / (2 * mean_tokens), rel=1e-4)


def test_long_examples_are_left_out_and_counted(own_tokenizer: Any) -> None:
    pairs = [tokenise(own_tokenizer, "say red", "red"), tokenise(own_tokenizer, "say red " * 30, "red")]
    model = new_model("causal", own_tokenizer, SHAPE, seed=0)
    result = finetune(model, pairs, SFTConfig(steps=2, max_tokens=40))
    assert (result.examples, result.left_out) == (1, 1)
    with pytest.raises(ConfigError, match="none of the 2 examples"):
        finetune(model, pairs, SFTConfig(steps=2, max_tokens=2))


def test_a_loss_that_is_no_number_stops_the_training() -> None:
    model = torch.nn.Linear(2, 1)
    with pytest.raises(TrainingFailed, match="step 1"):
        fit(model, 4, lambda batch: model(torch.full((1, 2), float("nan"))).sum(), FitConfig(steps=3))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "Expecting"),
        ('["prompt"]', "not a JSON object"),
        ('{"prompt": "a"}', "no field 'completion'"),
        ('{"prompt": "a", "completion": 3}', "completion: must be a string"),
        ('{"prompt": "", "completion": "b"}', "prompt is empty"),
        ('{"prompt": [{"content": "a"}], "completion": "b"}', "role"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, own_tokenizer: Any, line: str, message: str) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"prompt": "a", "completion": "b"}\n' + line + "\n")
    with pytest.raises(ConfigError, match=message) as caught:
        read_sft_file(path, own_tokenizer)
    assert f"{path}:2" in str(caught.value)
