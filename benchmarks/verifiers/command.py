"""The command line."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks._report import RESULTS, describe_machine
from benchmarks.verifiers import __doc__ as purpose
from benchmarks.verifiers.hostile import HOSTILE
from benchmarks.verifiers.report import write_report
from benchmarks.verifiers.run import PARTS, Settings, measure


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write the report, and exit with 1 when a bar is not met."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.verifiers", description=(purpose or "").partition("\n")[0])
    environment = os.environ.get("REWARDMESH_DATA")
    parser.add_argument(
        "--data", type=Path, default=Path(environment) if environment else None, help="GSM8K model answers, or their folder"
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to measure")
    parser.add_argument("--rounds", type=int, default=Settings.rounds)
    parser.add_argument("--repeats", type=int, default=Settings.repeats, help="times that every answer is sent in a round")
    parser.add_argument("--problems", type=int, default=Settings.problems, help="problems of formulas, four answers each")
    parser.add_argument("--hostile", type=int, default=len(HOSTILE), help="how many of the hostile answers")
    parser.add_argument("--programs", type=int, default=Settings.programs, help="programs in a sandbox")
    parser.add_argument("--programs-alone", type=int, default=Settings.programs_alone, help="programs that run one after the other")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args(arguments)
    settings = Settings(
        data=given.data,
        only=tuple(given.only),
        repeats=given.repeats,
        rounds=given.rounds,
        problems=given.problems,
        hostile=given.hostile,
        programs=given.programs,
        programs_alone=given.programs_alone,
    )
    machine = describe_machine(1)
    path, bars = write_report(given.out, machine, measure(settings))
    print(path.read_text())
    if missed := [bar.name for bar in bars if not bar.met]:
        sys.exit(f"verifiers: not met: {', '.join(missed)}")
