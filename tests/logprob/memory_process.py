"""Memory of log-probabilities over a large vocabulary: 8,192 tokens of 150,000 classes, all statistics, in a process of its own.

The whole matrix of logits would take tokens * vocabulary * 4 bytes (4.9 GB); what is printed is how much more resident memory the
process needed at its peak than just before the call.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path


def resident() -> tuple[int, int]:
    """Resident memory of this process and its peak, bytes."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    now, peak = (int(fields[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
    return now, peak


def measure(tokens: int, vocabulary: int, top_k: int, extras: bool, threads: int) -> dict[str, float]:
    """One call on a policy with two small layers and a large vocabulary."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config

    from rewardmesh.engine.forward import why_not_packed
    from rewardmesh.engine.log_probs import completion_statistics

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=tokens,
        tie_word_embeddings=False,
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    model.requires_grad_(False)
    packed = not why_not_packed(model)
    completions = torch.randint(0, vocabulary, (8, tokens // 8)).numpy()
    pairs = [([1], completion) for completion in completions]
    with torch.inference_mode():
        completion_statistics(model, [([1], [2, 3])], packed=packed)  # what the first call of a process takes is not the batch's
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
        before, _ = resident()
        began = time.perf_counter()
        stats, _ = completion_statistics(
            model, pairs, packed=packed, extras=("entropy", "self_certainty", "margin") if extras else (), top_k=top_k
        )
        seconds = time.perf_counter() - began
    assert sum(len(one.log_probs) for one in stats) == tokens // 8 * 8
    return {"extra_bytes": resident()[1] - before, "logits_bytes": tokens * vocabulary * 4, "seconds": seconds}


def main() -> None:
    """Measure with the arguments of the command line and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--vocabulary", type=int, default=150_000)
    parser.add_argument("--top-k", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--extras", action="store_true", help="entropy, self-certainty and margin too")
    args = parser.parse_args()
    print(json.dumps(measure(args.tokens, args.vocabulary, args.top_k, args.extras, args.threads)))


if __name__ == "__main__":
    main()
