"""LoRA adapters that share a base against merged weights, packed; one copy of the base; what does not fit is refused and does no harm."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from lora_directories import PEFT_WARNING, write_adapter
from rewardmesh.engine.adapters import AdaptedModel, open_adapter, share
from rewardmesh.engine.loading import LoadError, load_model

pytestmark = pytest.mark.filterwarnings(PEFT_WARNING)

MakeAdapter = Callable[..., Path]
PROMPT = list(range(30, 50))
PAIRS = [(PROMPT, [60, 61, 62]), (PROMPT, [70, 71]), ([5, 6], [80])]
ARCHITECTURES = ("qwen2", "llama", "gpt_neox")


@pytest.fixture(scope="session")
def make_adapter(tmp_path_factory: pytest.TempPathFactory) -> MakeAdapter:
    return lambda base, seed=1, **options: write_adapter(tmp_path_factory.mktemp("adapter"), base, seed, **options)


def naive(path: Path, pairs: list[tuple[list[int], list[int]]]) -> torch.Tensor:
    """Log-probabilities of all completion tokens, by transformers alone."""
    model = AutoModelForCausalLM.from_pretrained(path)
    parts = []
    with torch.inference_mode():
        for prompt, completion in pairs:
            logits = model(input_ids=torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
            parts.append(torch.log_softmax(logits, 1).gather(1, torch.tensor(completion)[:, None])[:, 0])
    return torch.cat(parts)


def served(model: AdaptedModel) -> torch.Tensor:
    return torch.cat([stats.log_probs for stats, _ in model.token_statistics(PAIRS, temperature=1.0, extras=(), top_k=0)])


def open_base(path: Path) -> AdaptedModel:
    return share(load_model(path, "causal", name="base", version=1))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_adapters_equal_merged_weights_and_leave_the_base_alone(make_model: Any, make_adapter: MakeAdapter, architecture: str) -> None:
    path = make_model("causal", architecture)
    base = open_base(path)
    first, second = (open_adapter(base, make_adapter(path, seed), name=f"a{seed}", version=1) for seed in (1, 2))
    assert base.packed
    assert first.packed
    for _ in range(2):  # switching back and forth
        for model, directory in ((base, path), (first, make_adapter(path, 1) / "merged"), (second, make_adapter(path, 2) / "merged")):
            torch.testing.assert_close(served(model), naive(directory, PAIRS), atol=1e-4, rtol=0)
    assert float((served(first) - served(second)).abs().max()) > 1e-2


def test_the_base_is_in_memory_once(causal_model: Path, make_adapter: MakeAdapter) -> None:
    base = open_base(causal_model)
    before = sum(p.numel() for p in base.model.parameters())
    adapters = [open_adapter(base, make_adapter(causal_model, seed), name="a", version=1) for seed in (1, 2)]
    assert all(adapter.model is base.model for adapter in adapters)
    added = sum(p.numel() for p in base.model.parameters()) - before
    # Rank 4 on three layers of two blocks, twice: r * (in + out).
    assert added == 2 * 2 * 4 * ((32 + 32) + (32 + 16) + (64 + 32))
    assert not any(p.requires_grad for p in base.model.parameters())


def test_fingerprints_name_base_and_adapter(causal_model: Path, make_model: Any, make_adapter: MakeAdapter) -> None:
    base, other = open_base(causal_model), open_base(make_model("causal", seed=7))
    directory = make_adapter(causal_model)
    same, again, elsewhere, different = (
        open_adapter(root, path, name="a", version=1).fingerprint
        for root, path in ((base, directory), (base, directory), (other, directory), (base, make_adapter(causal_model, 2)))
    )
    assert same == again
    assert len({base.fingerprint, same, elsewhere, different}) == 4


def test_memory_is_freed_with_the_last_user(causal_model: Path, make_adapter: MakeAdapter) -> None:
    base = open_base(causal_model)
    before = sum(p.numel() for p in base.model.parameters())
    expected = served(base)
    kept = open_adapter(base, make_adapter(causal_model, 1), name="a", version=1)
    gone = open_adapter(base, make_adapter(causal_model, 2), name="a", version=2)
    with_two = sum(p.numel() for p in base.model.parameters())
    values = served(kept)
    served(gone)
    del gone
    gc.collect()
    torch.testing.assert_close(served(base), expected, atol=0, rtol=0)
    assert sum(p.numel() for p in base.model.parameters()) == before + (with_two - before) // 2
    torch.testing.assert_close(served(kept), values, atol=0, rtol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_modules": ["lm_head"]}, "lm_head is the model's embedding or head"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save is set"),
        ({"bias": "all"}, "bias is set"),
    ],
)
def test_adapters_that_change_more_are_refused(make_model: Any, make_adapter: MakeAdapter, options: Any, message: str) -> None:
    path = make_model("causal", tie_word_embeddings=False)
    base = open_base(path)
    expected = served(base)
    with pytest.raises(LoadError, match=message):
        open_adapter(base, make_adapter(path, **options), name="a", version=1)
    torch.testing.assert_close(served(base), expected, atol=0, rtol=0)


def test_what_does_not_fit_is_refused(causal_model: Path, make_model: Any, make_adapter: MakeAdapter, tmp_path: Path) -> None:
    base = open_base(causal_model)
    with pytest.raises(LoadError, match=r"has no adapter_config\.json"):
        open_adapter(base, tmp_path, name="a", version=1)
    wider = make_adapter(make_model("causal", hidden_size=64))
    with pytest.raises(LoadError, match="64 features, the base's layer 32"):
        open_adapter(base, wider, name="a", version=1)
    deeper = make_adapter(make_model("causal", num_hidden_layers=3))
    with pytest.raises(LoadError, match=r"the base has no layer for model\.layers\.2"):
        open_adapter(base, deeper, name="a", version=1)
    fewer = make_adapter(causal_model, target_modules=["q_proj"])
    config = fewer / "adapter_config.json"
    config.write_text(config.read_text().replace('"q_proj"', '"q_proj", "v_proj"'))
    with pytest.raises(LoadError, match="the weights lack 4 tensors"):
        open_adapter(base, fewer, name="a", version=1)
    torn = make_adapter(causal_model)
    (torn / "adapter_model.safetensors").write_bytes(b"torn")
    with pytest.raises(LoadError, match="cannot be loaded"):
        open_adapter(base, torn, name="a", version=1)
    torch.testing.assert_close(served(base), naive(causal_model, PAIRS), atol=1e-4, rtol=0)


def test_loading_beside_computing_on_several_threads(causal_model: Path, make_adapter: MakeAdapter) -> None:
    base = open_base(causal_model)
    models = [base, *(open_adapter(base, make_adapter(causal_model, seed), name=f"a{seed}", version=1) for seed in (1, 2))]
    expected = [served(model) for model in models]
    directory = make_adapter(causal_model, 3)
    stop, failures = threading.Event(), []
    rounds = [0] * len(models)

    def compute(index: int) -> None:
        while not stop.is_set():
            rounds[index] += 1
            if not torch.equal(served(models[index]), expected[index]):
                failures.append(models[index].name)

    threads = [threading.Thread(target=compute, args=(index,)) for index in range(len(models))]
    for thread in threads:
        thread.start()
    try:
        for version in range(1, 6):
            open_adapter(base, directory, name="b", version=version)  # and let go at once
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures
    assert all(rounds)
