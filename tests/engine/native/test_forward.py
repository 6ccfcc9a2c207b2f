"""The compiled forward gives what transformers gives, for every architecture that it knows, however a batch is put together."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardmesh.engine.attention import PACKED
from rewardmesh.engine.forward import classification_scores, hidden_states, is_native, sequence_states, use_torch
from rewardmesh.engine.loading import LoadedModel
from rewardmesh.engine.native import NativeDecoder
from rewardmesh.engine.native.layers import ARCHITECTURES
from rewardmesh.engine.packing import make_plan
from rewardmesh.engine.prefix_cache import PrefixCache

Load = Callable[..., LoadedModel]
TOLERANCE = 1e-4
CHANGES: dict[str, list[dict[str, Any]]] = {
    "qwen2": [{"hidden_size": 48, "num_attention_heads": 6, "num_key_value_heads": 2, "intermediate_size": 100}],
    "qwen3": [{"head_dim": 8}, {"head_dim": 24, "num_key_value_heads": 1}],
    "llama": [{"attention_bias": True, "mlp_bias": True}, {"hidden_act": "gelu"}, {"hidden_act": "relu"}],
    # Windows of 16 tokens, which prompt and answer outgrow; Gemma 2 also soft-caps its logits.
    "mistral": [{"sliding_window": 16}, {"sliding_window": 3}],
    "gemma": [{"head_dim": 8}],
    "gemma2": [{"head_dim": 8, "sliding_window": 16, "query_pre_attn_scalar": 8}],
    "gemma3_text": [{"head_dim": 8, "sliding_window": 16, "query_pre_attn_scalar": 8}],
    "phi": [{}, {"qk_layernorm": True}],
    "phi3": [{"sliding_window": 16}],
    "gpt_neox": [{"use_parallel_residual": False}],
}
CASES = [(name, changes) for name in ARCHITECTURES for changes in ({}, *CHANGES[name]) if changes or "head_dim" not in CHANGES[name][0]]


def plain_states(loaded: LoadedModel, ids: Sequence[int]) -> torch.Tensor:
    """Hidden states by transformers' own attention, one sequence alone."""
    loaded.model.set_attn_implementation("eager")
    try:
        states: torch.Tensor = loaded.model.base_model(input_ids=torch.tensor([list(ids)])).last_hidden_state[0]
        return states
    finally:
        loaded.model.set_attn_implementation(PACKED)


def decoder(loaded: LoadedModel) -> NativeDecoder:
    found: NativeDecoder = loaded.model.native_decoder
    return found


@pytest.mark.parametrize(("architecture", "changes"), CASES, ids=lambda value: value if isinstance(value, str) else "-".join(value))
def test_hidden_states_agree(load: Load, architecture: str, changes: dict[str, Any], sequences: list[list[int]]) -> None:
    loaded = load("causal", architecture, native=True, **changes)
    assert loaded.computed_by == "native", loaded.computed_by_reason
    with torch.inference_mode():
        for first in (None, [len(ids) - 1 for ids in sequences], [len(ids) // 2 for ids in sequences]):
            states, rows, computed = sequence_states(loaded.model, sequences, packed=True, first=first)
            for number, (ids, where) in enumerate(zip(sequences, rows, strict=True)):
                expected = plain_states(loaded, ids)[first[number] if first else 0 :]
                torch.testing.assert_close(states[where], expected, atol=TOLERANCE, rtol=0)
            assert sum(computed) < sum(map(len, sequences))


def test_long_sequences_agree(load: Load) -> None:
    """Longer than a block of rows and a panel of keys, with lengths on and beside their edges."""
    loaded = load("causal", "qwen2", native=True, max_position_embeddings=1024)
    random = np.random.default_rng(0)
    prompt = random.integers(2, 300, 200).tolist()
    sequences = [prompt + random.integers(2, 300, n).tolist() for n in (1, 31, 32, 33, 95, 96, 97, 400)]
    with torch.inference_mode():
        states, rows, _ = sequence_states(loaded.model, sequences, packed=True)
        for ids, where in zip(sequences, rows, strict=True):
            torch.testing.assert_close(states[where], plain_states(loaded, ids), atol=TOLERANCE, rtol=0)


def test_scores_agree_with_the_whole_plain_model(load: Load, sequences: list[list[int]]) -> None:
    loaded = load("classification", "qwen2", native=True, num_labels=3)
    with torch.inference_mode():
        scores, _ = classification_scores(loaded.model, sequences, packed=True)
        loaded.model.set_attn_implementation("eager")
        try:
            plain = torch.cat([loaded.model(input_ids=torch.tensor([ids])).logits for ids in sequences])
        finally:
            loaded.model.set_attn_implementation(PACKED)
    torch.testing.assert_close(scores, plain, atol=TOLERANCE, rtol=0)
    assert plain.std() > 0.1, "scores must differ for the comparison to mean something"


def states_of(loaded: LoadedModel, sequences: Sequence[Sequence[int]], cache: PrefixCache | None, at_least: int) -> list[torch.Tensor]:
    """Hidden states of each sequence's last three tokens at most."""
    first = [max(len(ids) - 3, 0) for ids in sequences]
    with torch.inference_mode():
        plan = make_plan([np.array(ids) for ids in sequences], at_least, first=first, prefixes=cache)
        states = hidden_states(loaded.model, plan)
        if cache is not None:
            cache.store(plan)
    return [states[plan.rows(i)] for i in range(len(sequences))]


token = st.integers(2, 4)
batch = st.lists(st.lists(token, min_size=1, max_size=40), min_size=1, max_size=8)


@settings(max_examples=80, deadline=None)
@given(
    batches=st.lists(batch, min_size=1, max_size=3), at_least=st.sampled_from([1, 4, 10**9]), kept=st.booleans(), threads=st.integers(1, 3)
)
@pytest.mark.parametrize(("architecture", "changes"), [("qwen2", {}), ("mistral", {"sliding_window": 5})])
def test_no_batch_changes_a_bit(
    load: Load, architecture: str, changes: dict[str, Any], batches: list[list[list[int]]], at_least: int, kept: bool, threads: int
) -> None:
    """Alone, among others, behind shared or cached prefixes, on any number of threads: the same bits."""
    loaded = load("causal", architecture, native=True, **changes)
    cache = PrefixCache(2**30) if kept else None
    decoder(loaded)._threads = threads
    try:
        for sequences in batches:
            together = states_of(loaded, sequences, cache, at_least)
            for ids, found in zip(sequences, together, strict=True):
                [alone] = states_of(loaded, [ids], None, at_least)
                assert torch.equal(found, alone)
    finally:
        decoder(loaded)._threads = 1


def test_prefixes_are_kept_and_used(load: Load) -> None:
    loaded = load("causal", "qwen2", native=True)
    cache = PrefixCache(2**30)
    system = list(range(2, 52))
    batches = [[[*system, *[100 + n] * 9, answer] for answer in (7, 8)] for n in range(3)]
    for batch in batches:
        for ids, found in zip(batch, states_of(loaded, batch, cache, 8), strict=True):
            torch.testing.assert_close(found, plain_states(loaded, ids)[-3:], atol=TOLERANCE, rtol=0)
    assert cache.hit_tokens == 50 * 2


def test_a_sequence_that_is_not_finite_harms_no_other(load: Load, make_model: Callable[..., Any]) -> None:
    def spoil(model: Any) -> None:
        model.get_input_embeddings().weight[77] = torch.nan

    loaded = load("causal", "qwen2", native=True, edit=spoil)
    prompt = list(range(2, 22))
    good, bad = [*prompt, 30, 31], [*prompt, 77, 31]
    found = states_of(loaded, [good, bad, good[:-1]], None, 8)
    assert torch.isfinite(found[0]).all()
    assert torch.isfinite(found[2]).all()
    assert torch.isnan(found[1][-1]).all()


def test_threads_share_a_model(load: Load, sequences: list[list[int]]) -> None:
    loaded = load("classification", "qwen2", native=True)
    batches = [sequences[i:] + sequences[:i] for i in range(len(sequences))] * 3

    def run(batch: list[list[int]]) -> list[float]:
        return [values[0] for values, _ in loaded.scores(batch)]

    expected = [run(batch) for batch in batches]
    decoder(loaded)._threads = 4
    try:
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(run, batches))
    finally:
        decoder(loaded)._threads = 1
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, abs=1e-6)


def test_gradients_go_through_torch(load: Load, sequences: list[list[int]]) -> None:
    loaded = load("causal", "qwen2", native=True, seed=3)
    loaded.model.requires_grad_(True)
    try:
        states, rows, _ = sequence_states(loaded.model, sequences, packed=True)
        torch.stack([states[r].sum() for r in rows]).sum().backward()  # type: ignore[no-untyped-call]
        assert loaded.model.get_input_embeddings().weight.grad.abs().sum() > 0
    finally:
        loaded.model.requires_grad_(False)


def test_torch_takes_over_when_told(load: Load, sequences: list[list[int]]) -> None:
    loaded = load("causal", "qwen2", native=True, seed=4)
    with torch.inference_mode():
        before, rows, _ = sequence_states(loaded.model, sequences, packed=True)
        use_torch(loaded.model)
        assert not is_native(loaded.model)
        after, _, _ = sequence_states(loaded.model, sequences, packed=True)
    for where in rows:
        torch.testing.assert_close(before[where], after[where], atol=TOLERANCE, rtol=0)
    assert loaded.computed_by == "torch"


@pytest.mark.parametrize("capability", ["avx2", "default"])
def test_older_processors_compute_the_same(capability: str, load: Load, sequences: list[list[int]]) -> None:
    """A process that is told to do without AVX-512, or without AVX2: other vectors, other tiles, the same states."""
    loaded = load("causal", "qwen2", native=True)
    program = (
        "import json, sys, torch\n"
        "from rewardmesh.engine.loading import load_model\n"
        "from rewardmesh.engine.forward import sequence_states\n"
        "path, sequences = json.load(sys.stdin)\n"
        "loaded = load_model(path, 'causal', name='tiny', version=1)\n"
        "assert loaded.computed_by == 'native', loaded.computed_by_reason\n"
        "lanes = loaded.model.native_decoder._library.rewardmesh_lanes()\n"
        "with torch.inference_mode():\n"
        "    states, rows, _ = sequence_states(loaded.model, sequences, packed=True)\n"
        "print(json.dumps([lanes, [states[r].tolist() for r in rows]]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps([loaded.model.config._name_or_path, sequences]),
        env={**os.environ, "ATEN_CPU_CAPABILITY": capability},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lanes, states = json.loads(done.stdout)
    assert lanes == {"avx2": 8, "default": 4}[capability]
    for ids, found in zip(sequences, states, strict=True):
        torch.testing.assert_close(torch.tensor(found), plain_states(loaded, ids), atol=TOLERANCE, rtol=0)
