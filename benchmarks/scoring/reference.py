"""What every score is compared with: transformers, one sequence a call, in a process of its own; and the floor of the machine."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks._items import Shape
from benchmarks.scoring.contender import ContenderError, Ids, Item, Setup, environment_with, thread_environment

AGREEMENT = 1e-3
"""Greatest difference from the reference at which a contender counts as having computed the same thing."""


def spread_over(items: Sequence[Item], count: int) -> list[int]:
    """Places of `count` items, evenly spread."""
    count = min(count, len(items))
    return [number * len(items) // count for number in range(count)]


def reference_scores(setup: Setup, sequences: Sequence[Ids]) -> list[float]:
    """Raw outputs of the head, each sequence by itself, with transformers' own attention."""
    return [float(value) for value in _child("scores", setup, sequences)]


def matmul_flops_per_s(threads: int, device: str = "cpu", dtype: str = "float32") -> float:
    """Throughput of one large product, the best repeat of the best of a few sizes, in a process of its own.

    On a CPU by MKL, which torch calls by itself, by oneDNN, which vLLM uses, and by our own compiled library: the best of the three.
    """
    request = {"threads": threads, "device": device, "dtype": dtype}
    return float(_run("matmul", request, threads))


@dataclass(frozen=True)
class Work:
    """What a set of items costs.

    flops: of the matrix products that are really needed; flops_all_rows: of those a forward pass makes that does not leave out the rows
    of the last layer that nobody reads.
    """

    tokens_read: int
    tokens_computed: int
    flops: float
    flops_all_rows: float


def needed_work(groups: Sequence[Sequence[Ids]], shape: Shape) -> Work:
    """Tokens and FLOPs when the tokens that a group's sequences begin with are computed once, and nothing is padded.

    Counted are the products of projections, feed-forward and attention (with the keys and values of the tokens attended to), two FLOPs
    a multiply-add. Of the last layer only keys and values are needed for every token, the rest for each sequence's last token. The
    embedding is a look-up, and the head one product a sequence, too little to count.
    """
    head = shape.width // shape.heads
    keys_values = 2.0 * shape.width * 2 * shape.key_heads * head
    others = 2.0 * (2 * shape.width * shape.width + 3 * shape.width * shape.feed_forward)
    read = computed = attended = last = last_attended = 0
    for group in groups:
        read += sum(map(len, group))
        before: Ids = []
        for ids in sorted(group):  # sorted, a sequence shares most with the one before it
            shared = next((place for place, (a, b) in enumerate(zip(before, ids, strict=False)) if a != b), min(len(before), len(ids)))
            computed += len(ids) - shared
            attended += (len(ids) * (len(ids) + 1) - shared * (shared + 1)) // 2
            before = ids
        last += len(group)
        last_attended += sum(map(len, group))
    # A product with the keys and one with the values, over all heads.
    attention = 4.0 * shape.width
    layer = computed * (keys_values + others) + attended * attention
    last_layer = computed * keys_values + last * others + last_attended * attention
    return Work(read, computed, (shape.layers - 1) * layer + last_layer, shape.layers * layer)


def grouped(items: Sequence[Item]) -> list[list[Ids]]:
    """Token ids by group, in order."""
    groups: dict[int, list[Ids]] = {}
    for item in items:
        groups.setdefault(item.group, []).append(item.ids)
    return list(groups.values())


def _child(task: str, setup: Setup, sequences: Sequence[Ids]) -> list[Any]:
    request = {"model": str(setup.model), "threads": setup.threads, "sequences": sequences, "dtype": setup.dtype, "device": setup.device}
    found: list[Any] = _run(task, request, setup.threads)
    return found


def _run(task: str, request: dict[str, Any], threads: int) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.scoring.reference", task],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=False,
        env=environment_with(thread_environment(threads, {})),
        cwd=Path(__file__).parents[2],
    )
    if done.returncode:
        raise ContenderError(f"reference: {done.stderr[-2000:]}")
    return json.loads(done.stdout)


def _scores(request: dict[str, Any]) -> list[float]:
    import torch
    from transformers import AutoModelForSequenceClassification

    torch.set_num_threads(request["threads"])
    loaded: Any = AutoModelForSequenceClassification.from_pretrained(request["model"], dtype=getattr(torch, request["dtype"]))
    model = loaded.to(request["device"]).eval()
    with torch.inference_mode():
        return [
            float(model(input_ids=torch.tensor([ids], device=request["device"]), use_cache=False).logits[0, 0])
            for ids in request["sequences"]
        ]


def _matmul(request: dict[str, Any]) -> float:
    import torch

    from rewardmesh.engine.linear import linear

    torch.set_num_threads(request["threads"])
    device, dtype = request["device"], getattr(torch, request["dtype"])
    best = 0.0
    for size in (1024, 2048, 3072) if device == "cpu" else (4096, 8192, 16384):
        a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        products: list[Callable[[Any, Any], Any]] = [torch.mm, lambda x, y: linear(x, y, None)]
        if device == "cpu" and dtype == torch.float32:
            products.append(_compiled_product(b, request["threads"]))
        for product in products:
            taken = []
            for _ in range(10):
                if device != "cpu":
                    torch.cuda.synchronize(device)
                began = time.perf_counter()
                with torch.inference_mode():
                    product(a, b)
                if device != "cpu":
                    torch.cuda.synchronize(device)
                taken.append(time.perf_counter() - began)
            best = max(best, 2.0 * size**3 / min(taken))
    return best


def _compiled_product(b: Any, threads: int) -> Callable[[Any, Any], Any]:
    """The product with a square matrix by our library, its rows divided among threads; the matrix is laid out before."""
    import ctypes
    from concurrent.futures import ThreadPoolExecutor

    import torch

    from rewardmesh.engine.native.library import Weights, library

    compiled = library()
    columns = 2 * compiled.rewardmesh_lanes()
    panels = b.view(-1, columns, len(b)).transpose(1, 2).contiguous()
    bias = torch.zeros(len(b))
    weights = Weights(panels.data_ptr(), bias.data_ptr(), len(b), len(b))
    pool = ThreadPoolExecutor(threads)

    def product(a: Any, _: Any) -> Any:
        found = torch.empty(len(a), len(b))

        def part(rows: Any) -> None:
            first = int(rows[0])
            compiled.rewardmesh_multiply(a[first].data_ptr(), len(rows), ctypes.byref(weights), found[first].data_ptr())

        list(pool.map(part, torch.arange(len(a)).chunk(threads)))
        return found

    product.kept = (panels, bias)  # type: ignore[attr-defined]  # the pointers above go to them
    return product


if __name__ == "__main__":
    answer = {"scores": _scores, "matmul": _matmul}[sys.argv[1]](json.load(sys.stdin))
    print(json.dumps(answer))
