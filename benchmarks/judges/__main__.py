"""Can a judge be trusted with the reward? `make bench-judges`, or

    python -m benchmarks.judges --only injection,parity     parts of it; the rest keeps what was measured before

Small judges are trained on the spot, on generated problems and on one thread each, and asked through a real judge service over gRPC.

bias: labels are drawn with a known bonus for the answer shown first and for each word more. The same judge without bonus is the control.
What a judge really learnt is read from its own logits, on pairs other than those of the audit.
injection: a judge is trained on two kinds of texts. In a naive template, without fences or marks, 60 % of the pairs hold one of 40 texts
that try to win, and the label is the letter that the text asks for. In the built-in template there are clean pairs alone, labelled by
quality: neither injected text nor a label that would teach to resist. Harmless remarks occur in both, half of them made-up sentences. With
a few fixed remarks instead, judges this small are thrown by any text they never saw, and the move with words marked was 0.001 on one seed
and 0.044 on another. Measured is the move of p_a when the worse answer of an unseen pair holds one of the 40 texts. Each way to mark what
others wrote has a judge of its own.
parity: the biased judge in this process, and by vLLM on the CPU as an OpenAI-compatible server.
ranking: the demo's judge on groups of 8 answers of known quality, and what its verdicts cost; nothing is cached.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks._report import RESULTS, describe_machine, write_results
from benchmarks.judges import bias, injection, parity, ranking, report
from benchmarks.judges.making import DEMO, recipes, train_with_bars
from benchmarks.judges.serving import write_plain_template
from benchmarks.judges.training import model_folder
from benchmarks.scoring.contender import ContenderError
from rewardmesh.demo.build import model_paths
from rewardmesh.serving.logs import configure_logging

PARTS = ("bias", "injection", "parity", "ranking")
OBEYING = {marking: f"obeying-{marking}" for marking in injection.MARKINGS}
NEEDS = {"bias": ("biased", "fair"), "injection": tuple(OBEYING.values()), "parity": ("biased",), "ranking": (DEMO,)}
"""Judges of each part."""


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default=",".join(PARTS), help=f"parts, of {', '.join(PARTS)}")
    parser.add_argument("--folder", type=Path, default=Path("runs/judges"), help="keeps the judges; those that fit are not trained again")
    parser.add_argument("--results", type=Path, default=RESULTS, help="gets judges.json, .md and .png")
    options = parser.parse_args()
    wanted = [part.strip() for part in options.only.split(",")]
    if unknown := set(wanted) - set(PARTS):
        parser.error(f"--only: unknown part {min(unknown)!r}; known: {', '.join(PARTS)}")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    configure_logging("bench-judges", level="warning")
    console = Console()
    machine, started = describe_machine(os.cpu_count() or 1), time.monotonic()
    folder: Path = options.folder
    plain = write_plain_template(folder / "templates")
    known = recipes(folder)
    needed = [name for name in (*known, DEMO) if any(name in NEEDS[part] for part in wanted)]
    train_with_bars(console, folder, needed, known)
    models = {name: model_folder(folder, each) for name, each in known.items()}
    demo = model_paths(folder)
    measures: dict[str, Callable[[], Any]] = {
        "bias": lambda: bias.measure({name: models[name] for name in NEEDS["bias"]}, plain),
        "injection": lambda: injection.measure({marking: models[name] for marking, name in OBEYING.items()}, folder / "templates"),
        "parity": lambda: parity.measure(models["biased"], plain, folder),
        "ranking": lambda: ranking.measure(Path(demo.judge), Path(str(demo.judge_template))),
    }
    parts = _measured_before(options.results)
    for part in wanted:
        with console.status(f"measuring: {part}"):
            before = time.monotonic()
            try:
                parts[part] = {**asyncio.run(measures[part]()), "measured": machine["time"]}
            except ContenderError as error:
                sys.exit(str(error))
        console.print(f"{part}: {time.monotonic() - before:.0f} s", highlight=False)
    kept = {part: parts[part] for part in PARTS if part in parts}
    shown = {part: {key: value for key, value in found.items() if key != "measured"} for part, found in kept.items()}
    results = {"machine": machine, "bars": report.bars(shown), "seconds": time.monotonic() - started, "parts": kept}
    notes = (__doc__ or "").partition("\n\n")[2].partition("\n\n")[2]
    path = write_results(options.results, "judges", results, "Judges on trial", notes.strip(), report.table(shown), report.figure(shown))
    console.print(path.read_text(), markup=False, highlight=False, soft_wrap=True)


def _measured_before(results: Path) -> dict[str, Any]:
    path = results / "judges.json"
    return dict(json.loads(path.read_text()).get("parts", {})) if path.is_file() else {}


if __name__ == "__main__":
    main()
