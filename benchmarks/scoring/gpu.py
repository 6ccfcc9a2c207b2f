"""The races on a GPU: our server against padded transformers on the same device, and the share of its matrix throughput (MFU).

    python -m benchmarks.scoring.gpu --shape 8b --dtype bfloat16 --data FOLDER

The model has the shape of an 8B-parameter one with a small vocabulary (the embedding is a look-up) and random weights, which are written
to a temporary folder first: 14 GB of disk. Workloads A and B, written to `results/scoring_gpu.{json,md}`. MFU is the FLOPs that are
needed after sharing, a second, over the throughput of one large product of the same type on the same device; `--peak-tflops` takes the
device's nominal figure instead.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks._items import Shape, write_model
from benchmarks._report import RESULTS, Table, describe_machine, machine_line, markdown
from benchmarks.scoring.bars import OURS
from benchmarks.scoring.calibrate import best, calibrate
from benchmarks.scoring.contender import Contender, ContenderError, Setup
from benchmarks.scoring.local import Bare, Padded
from benchmarks.scoring.ours import Ours
from benchmarks.scoring.progress import Progress
from benchmarks.scoring.race import Race, run_races
from benchmarks.scoring.reference import grouped, matmul_flops_per_s, needed_work, reference_scores, spread_over
from benchmarks.scoring.statistics import rate, ratio
from benchmarks.scoring.store import Store
from benchmarks.scoring.workloads import Sizes, read_text, warm_up, workload_a, workload_b

SHAPES = {
    "8b": Shape(width=4096, layers=36, heads=32, key_heads=8, feed_forward=12288),
    "1b": Shape(width=2048, layers=16, heads=32, key_heads=8, feed_forward=8192),
    "tiny": Shape(width=64, layers=2, heads=2, key_heads=1, feed_forward=128),
}
AGREEMENT = {"float32": 1e-3, "bfloat16": 5e-2, "float16": 1e-2}
"""Greatest difference from one-by-one scores of the same type: rounding differs with the shapes of the products."""


@dataclass(frozen=True)
class GpuSettings:
    """A run."""

    data: Path | None
    shape: str
    dtype: str
    device: str
    rounds: int
    sizes: Sizes
    out: Path
    peak_flops_per_s: float | None


def run(settings: GpuSettings, folder: Path, progress: Progress) -> Store:
    """Measure everything; raises ContenderError when the reference cannot be computed."""
    from transformers import PreTrainedTokenizerFast

    store = Store(settings.out / "scoring_gpu.json", keep=False)
    threads = len(os.sched_getaffinity(0))
    store.put(describe_machine(threads), "machine")
    text = read_text(settings.data, settings.sizes.questions * settings.rounds)
    shape = SHAPES[settings.shape]
    parameters = write_model(folder / "model", text.questions, shape, settings.dtype)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "model")
    setup = Setup(folder / "model", threads, folder / "logs", settings.dtype, settings.device)
    workloads = [make(tokenizer, text, settings.sizes, settings.rounds) for make in (workload_a, workload_b)]
    warm = warm_up(tokenizer, text, settings.sizes)
    references = {}
    for workload in workloads:
        places = spread_over(workload.rounds[0], 16)
        scores = reference_scores(setup, [workload.rounds[0][place].ids for place in places])
        references[workload.name] = dict(zip(places, scores, strict=True))
    peak = settings.peak_flops_per_s or matmul_flops_per_s(threads, settings.device, settings.dtype)
    store.put({"shape": settings.shape, "parameters": parameters, "dtype": settings.dtype, "peak_flops_per_s": peak}, "setting")
    contenders: list[Contender] = [Ours(), Bare(), Padded()]
    progress.expect(sum(len(contender.variants) + settings.rounds for contender in contenders))
    variants = {}
    for contender in contenders:
        tried = calibrate(contender, setup, warm, workloads[0].rounds[0][:48], progress)
        store.put(tried, "calibration", contender.name)
        variants[contender.name] = best(tried)
    for workload in workloads:
        flops = [needed_work(grouped(items), shape).flops for items in workload.rounds]
        store.put(
            {"title": workload.title, "source": workload.source, "round_flops": flops, "contenders": {}},
            "races",
            settings.shape,
            workload.name,
        )
    race = Race(settings.shape, setup, workloads, warm, references, AGREEMENT[settings.dtype])
    run_races(race, contenders, variants, settings.rounds, store, progress)
    return store


def write_gpu_report(store: Store) -> Path:
    """The Markdown file."""
    setting = store.document["setting"]
    peak = setting["peak_flops_per_s"]
    lines = [
        "# Scoring on a GPU",
        "",
        f"A Qwen2-shaped reward model of {setting['parameters'] / 1e9:.2f}B parameters with random weights, {setting['dtype']}; "
        f"MFU against {peak / 1e12:.3g} TFLOP/s. FLOPs are those needed after sharing, for all contenders.",
        "",
    ]
    for name, record in store.document["races"][setting["shape"]].items():
        lines += [f"**{name}**: {record['title']} a round, {record['source']}.", "", *markdown(_table(record, peak)), ""]
    lines += [machine_line(store.document["machine"]) + f" GPU: {store.document['machine']['gpu']}.", ""]
    path = store.path.with_suffix(".md")
    path.write_text("\n".join(lines))
    return path


def _table(record: dict[str, Any], peak: float) -> Table:
    contenders = record["contenders"]
    rows = []
    for name, one in contenders.items():
        if one["failed"] or not one["passes"]:
            rows.append([one["title"], f"failed: {(one['failed'] or 'not measured').splitlines()[0]}", "", "", ""])
            continue
        reached = [{"items": record["round_flops"][taken["round"]], "seconds": taken["seconds"]} for taken in one["passes"]]
        ours = contenders[OURS]
        times = f"{ratio(ours['passes'], one['passes']):.2f}×" if name != OURS and ours["passes"] and not ours["failed"] else ""
        rows.append([one["title"], f"{rate(one['passes']):.1f}", f"{rate(reached) / peak:.1%}", times, f"{one['difference']:.1e}"])
    return Table(("contender", "items/s (median)", "MFU", "rewardmesh is", "difference from one by one"), rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scoring.gpu", description=(__doc__ or "").partition("\n")[0])
    environment = os.environ.get("REWARDMESH_DATA")
    parser.add_argument("--data", type=Path, default=Path(environment) if environment else None)
    parser.add_argument("--shape", choices=tuple(SHAPES), default="8b")
    parser.add_argument("--dtype", choices=tuple(AGREEMENT), default="bfloat16")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--questions", type=int, default=85, help="of workload A a round")
    parser.add_argument("--groups", type=int, default=16, help="of workload B a round")
    parser.add_argument("--peak-tflops", type=float, help="nominal throughput of the device for this type; measured when not given")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args(arguments)
    if given.device.startswith("cuda"):
        import torch

        if not torch.cuda.is_available():
            sys.exit("scoring.gpu: torch sees no CUDA device here (--device cpu tries the command itself)")
    peak = given.peak_tflops * 1e12 if given.peak_tflops else None
    sizes = Sizes(given.questions, given.groups, 1)
    settings = GpuSettings(given.data, given.shape, given.dtype, given.device, given.rounds, sizes, given.out, peak)
    with tempfile.TemporaryDirectory(prefix="rewardmesh-gpu-") as folder, Progress() as progress:
        try:
            store = run(settings, Path(folder), progress)
        except (ContenderError, ValueError) as error:
            sys.exit(f"scoring.gpu: {error}")
    print(write_gpu_report(store).read_text())


if __name__ == "__main__":
    main()
