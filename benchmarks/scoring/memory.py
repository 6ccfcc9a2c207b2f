"""What log-probabilities of 8,192 tokens over a vocabulary of 150,000 cost in memory: the server's greatest resident set during the call.

All logits at once would take 4.6 GiB in fp32. Read from /proc: the peak is reset before the call, after a small call has made the
server allocate what it keeps anyway.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.scoring.contender import ContenderError, Setup, thread_environment
from benchmarks.scoring.ours import no_result_cache, serve
from rewardmesh.client import Client, token_sequence
from rewardmesh.v1.log_prob_service_pb2 import LogProbWants

GIB = 2**30


def measure_memory(setup: Setup, tokenizer: Any, *, tokens: int = 8192, vocabulary: int = 150_000) -> dict[str, Any]:
    """Ask a log-prob server about 8 sequences of `tokens` / 8 completion tokens, with entropy and without.

    Returns:
        {"extra_gib", "extra_with_entropy_gib", "all_logits_gib", "tokens", "vocabulary"}.
    """
    model = setup.folder / "wide-vocabulary"
    _write_model(model, tokenizer, vocabulary)
    fields = {"model": str(model), "threads": setup.threads, "budget_tokens": 2 * tokens, **no_result_cache("logprob")}
    process, address, _ = serve("logprob", fields, setup.folder / "logprob.log", thread_environment(setup.threads, {}))
    try:
        with Client(address, timeout_s=None) as client:
            _ask(client, 16, 8, 0, LogProbWants(entropy=True))
            found = {}
            for number, (name, want) in enumerate({"extra_gib": None, "extra_with_entropy_gib": LogProbWants(entropy=True)}.items(), 1):
                before = _status_bytes(process.pid, "VmRSS")
                Path(f"/proc/{process.pid}/clear_refs").write_text("5")
                _ask(client, tokens // 8, vocabulary, number, want)
                found[name] = (_status_bytes(process.pid, "VmHWM") - before) / GIB
    finally:
        process.stop()
    return {**found, "all_logits_gib": tokens * vocabulary * 4 / GIB, "tokens": tokens, "vocabulary": vocabulary}


def _ask(client: Client, length: int, vocabulary: int, seed: int, want: LogProbWants | None) -> None:
    sequences = [
        token_sequence(str(row), [row + 1], [(seed + 7919 * place + 31 * row) % vocabulary for place in range(length)]) for row in range(8)
    ]
    for scores in client.score_tokens(sequences, want=want):
        if scores.absence is not None:
            raise ContenderError(f"no log-probabilities: {scores.absence}")


def _write_model(folder: Path, tokenizer: Any, vocabulary: int) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        "qwen2",
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _status_bytes(pid: int, field: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise ContenderError(f"/proc/{pid}/status has no {field}")
