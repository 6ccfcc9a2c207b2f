"""The file layout of GSM8K's model answers: one question a line with several answers and whether people called them right.

{"question": str, "reference": str, "answers": [{"solution": str, "is_correct": bool, "model"?: str}]}
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Disagreement:
    """One answer where the score and the file's label differ."""

    id: str
    is_correct: bool
    value: float
    extracted_answer: str
    reference: str


@dataclass(frozen=True)
class Agreement:
    """How scores (at least 0.5 is right) compare with the labels; answers without a score are not compared."""

    compared: int
    disagreements: list[Disagreement]

    @property
    def fraction(self) -> float:
        """Share of the compared answers where both say the same; 0 when none could be compared."""
        return 1 - len(self.disagreements) / self.compared if self.compared else 0.0


def expand(lines: Iterable[bytes]) -> Iterator[bytes]:
    """One line a sample, as `score_jsonl` takes them; a record of another shape is passed on as it is, to be refused there."""
    for number, line in enumerate(lines, start=1):
        try:
            samples = list(_samples(number, json.loads(line)))
        except (ValueError, KeyError, TypeError, RecursionError):
            yield line
            continue
        for sample in samples:
            yield json.dumps(sample).encode()


def read_agreement(scored: Path) -> Agreement:
    """Compare the scores of an output file with the `is_correct` of its lines."""
    compared = 0
    disagreements = []
    with scored.open("rb") as lines:
        for line in lines:
            record = json.loads(line)
            value, label = record["outcome"]["value"], record.get("is_correct")
            if value is None or not isinstance(label, bool):
                continue
            compared += 1
            if (value >= 0.5) != label:
                stated = record["outcome"].get("extracted_answer", "")
                disagreements.append(Disagreement(record["id"], label, value, stated, record["references"][0].splitlines()[-1]))
    return Agreement(compared, disagreements)


def _samples(number: int, record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for index, answer in enumerate(record["answers"], start=1):
        yield {
            "id": f"{number}.{index}",
            "group_id": str(number),
            "prompt": record["question"],
            "completion": answer["solution"],
            "references": [record["reference"]],
            "is_correct": answer["is_correct"],
            **({"model": answer["model"]} if "model" in answer else {}),
        }
