"""The command line: settings, the parts in their order, and what happens when one fails."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks._report import RESULTS, describe_machine
from benchmarks.scoring.peers import FAMILIES
from benchmarks.scoring.progress import Progress
from benchmarks.scoring.report import summary, write_report
from benchmarks.scoring.run import Run
from benchmarks.scoring.settings import PARTS, Overload, Settings
from benchmarks.scoring.store import Store

QUIET_LOAD = 0.5
QUICK_RESULTS = Path("runs/scoring-quick")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; ends with status 1 when a part failed, 130 when it was interrupted. Figures measured until then are kept."""
    try:
        settings = read_arguments(arguments)
        store = Store(settings.out / "scoring.json", keep=tuple(settings.only) != PARTS)
    except ValueError as error:
        sys.exit(f"scoring: {error}")
    machine = describe_machine(settings.threads)
    if machine["load_before"] > QUIET_LOAD and not settings.quick:
        print(f"scoring: the load average is {machine['load_before']}: figures of a busy machine say little", file=sys.stderr)
    if settings.data is None:
        print("scoring: no --data: generated text stands in for real text, and the report says so", file=sys.stderr)
    store.put(machine, "machine")
    status = 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was started is stopped
    with tempfile.TemporaryDirectory(prefix="rewardmesh-scoring-") as folder, Progress() as progress:
        try:
            failed = Run(settings, store, Path(folder), progress).everything()
            status = 1 if failed else 0
        except ValueError as error:
            progress.say(f"scoring: {error}")
            status = 1
        except KeyboardInterrupt:
            progress.say("scoring: interrupted; what was measured is kept, and --only measures the rest")
            status = 130
    write_report(store)
    print("\n".join(summary(store)))
    sys.exit(status)


def read_arguments(arguments: Sequence[str] | None) -> Settings:
    """Settings from the command line.

    Raises:
        ValueError: an unknown part, peer or model.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scoring", description="rewardmesh and its peers, measured")
    environment = os.environ.get("REWARDMESH_DATA")
    default = Path(environment) if environment else None
    parser.add_argument("--data", type=Path, default=default, help="folder of GSM8K model answers and preference pairs")
    parser.add_argument("--only", type=_names, default=list(PARTS), help=f"parts to measure: {','.join(PARTS)}")
    parser.add_argument("--peers", type=_names, help=f"peers that take part: {','.join(FAMILIES)} (default: all), or none")
    parser.add_argument("--model", choices=("16m", "100m", "both"), default="both")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--questions", type=int, default=Settings.questions, help="of workload A in a round; 86 in 3 rounds are all 256")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="CPU threads of every contender")
    parser.add_argument("--quick", action="store_true", help="a tiny model and no peers unless named: tries the benchmark itself")
    parser.add_argument("--no-calibration", action="store_true", help="use the first settings of every contender")
    parser.add_argument("--out", type=Path, help="folder of the results (default: benchmarks/results, of a quick run runs/scoring-quick)")
    given = parser.parse_args(arguments)
    peers = given.peers if given.peers is not None else ([] if given.quick else list(FAMILIES))
    peers = [] if peers == ["none"] else peers
    for kind, names, known in (("part", given.only, PARTS), ("peer", peers, tuple(FAMILIES))):
        if unknown := sorted(set(names) - set(known)):
            raise ValueError(f"unknown {kind} {unknown[0]!r}; known: {', '.join(known)}")
    if min(given.rounds, given.threads, given.questions) < 1:
        raise ValueError("rounds, questions and threads are at least 1")
    models = ("16m", "100m") if given.model == "both" else (given.model,)
    only = tuple(part for part in PARTS if part in given.only)
    out = given.out or (QUICK_RESULTS if given.quick else RESULTS)
    settings = Settings(
        data=given.data,
        models=models,
        rounds=given.rounds,
        questions=given.questions,
        peers=peers,
        only=only,
        threads=given.threads,
        out=out,
        calibrate=not given.no_calibration,
    )
    if not given.quick:
        return settings
    overload = Overload(loads=(0.5, 2.0), seconds=2.0, deadline_s=1.0)
    return replace(settings, models=("tiny",), rounds=1, quick=True, calibrate=False, overload=overload)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
