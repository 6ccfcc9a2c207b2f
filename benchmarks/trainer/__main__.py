"""Update phase against TRL 1.16: the same model, weights, batch and dtype (float32) on the same processors.

    make bench-trainer                                     # writes benchmarks/results/trainer.{json,md,png}; 12 minutes when quiet
    python -m benchmarks.trainer --only 16m --rounds 3

An update is log-probabilities, GRPO's loss, backward pass, clipping and AdamW on a batch of GSM8K questions with four model answers each.
Nothing is generated and no reward is asked for. Every contender is a process with the same number of threads; one at a time is asked for an
update, in an order that is reversed every other round. All start from the same weights and make the same updates, so that losses and
gradient norms must stay equal; before that, each parameter's gradient is compared. The peer races as its trainer pads (each prompt and
completion to the longest of the whole generation batch) and once more with batches that were sorted and padded by hand, each with the size
of micro-batch that was fastest in a trial.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks._report import RESULTS, describe_machine
from benchmarks.scoring.settings import SHAPES
from benchmarks.trainer.contender import PEER_PYTHON
from benchmarks.trainer.race import Race, run_race
from benchmarks.trainer.report import write_report

DATA = Path(__file__).parents[3] / "shared" / "data"
QUESTIONS = {"16m": 12, "100m": 3, "tiny": 3}


def main() -> int:
    """Run, report; 1 when a bar is not met."""
    options = _options()
    if not PEER_PYTHON.exists():
        print(f"{PEER_PYTHON} is missing: run make .venv-trl-1.16/.ready", file=sys.stderr)
        return 2
    machine = describe_machine(options.threads)
    data = options.data if options.data and options.data.exists() else None
    races = {}
    with tempfile.TemporaryDirectory(prefix="bench-trainer-") as folder:
        for model in options.only:
            race = Race(model, SHAPES[model], options.questions or QUESTIONS[model], options.rounds)
            races[model] = run_race(race, data, options.threads, Path(folder) / model, lambda text: print(text, flush=True))
    path, bars = write_report(options.out, machine, races)
    print(path.read_text())
    return 0 if all(bar.met for bar in bars) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trainer")
    parser.add_argument("--only", nargs="+", choices=tuple(QUESTIONS), default=["16m", "100m"], help="models")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of gsm8k_model_answers.jsonl; generated text where it is missing")
    parser.add_argument("--questions", type=int, default=0, help="of a batch, instead of what suits each model")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
