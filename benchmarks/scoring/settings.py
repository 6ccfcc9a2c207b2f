"""How much is measured: models, sizes of the workloads, rounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks._items import Shape
from benchmarks._report import RESULTS
from benchmarks.scoring.workloads import Sizes

PARTS = ("A", "B", "C", "D", "gateway", "verifier", "memory", "single-flight", "replicas")
"""What `--only` takes."""
SHAPES = {
    "16m": Shape(),
    "100m": Shape(width=768, layers=15, heads=12, key_heads=4, feed_forward=2048),
    "tiny": Shape(width=64, layers=2, heads=2, key_heads=1, feed_forward=128),
}


@dataclass(frozen=True)
class Overload:
    """Workload D: one call a question, arrivals at `loads` times the capacity for `seconds` each, answers wanted within `deadline_s`."""

    loads: tuple[float, ...] = (0.5, 0.8, 1.0, 1.5, 2.0)
    seconds: float = 10.0
    deadline_s: float = 2.0


@dataclass(frozen=True)
class Settings:
    """A run.

    data: folder of real text, None for generated text; questions: of workload A in a round, 16M model.
    peers: families of `peers.FAMILIES`.
    only: parts that are measured; others keep what was measured before.
    """

    data: Path | None = None
    models: Sequence[str] = ("16m", "100m")
    rounds: int = 3
    questions: int = 56
    peers: Sequence[str] = ()
    only: Sequence[str] = PARTS
    threads: int = 2
    out: Path = RESULTS
    quick: bool = False
    calibrate: bool = True
    overload: Overload = field(default_factory=Overload)

    def sizes(self, model: str) -> Sizes:
        """What a round of this model has: the larger model gets less, so that a run takes half an hour on two cores."""
        if self.quick:
            return Sizes(questions=3, groups=1, dialogues=6, warm_up=4, prompt_tokens=60, answers=3, answer_tokens=20)
        if model == "100m":
            return Sizes(questions=8, groups=1, dialogues=16)
        return Sizes(questions=self.questions, groups=3, dialogues=64)

    @property
    def questions_read(self) -> int:
        """Questions of all rounds together; the file of real ones has 256."""
        return 3 * self.rounds if self.quick else min(256, max(self.questions, 8) * self.rounds)

    def races(self, model: str) -> list[str]:
        """Workloads of a model: the larger one runs A alone unless workloads are named."""
        named = [part for part in self.only if part in ("A", "B", "C")]
        return ["A"] if model == "100m" and tuple(self.only) == PARTS else named
