"""What a verifier is audited on: answers that someone called right or wrong.

Lines are {"prompt", "completion", "label", "references"?, "id"?, "group_id"?} with label true, false or a score in [0, 1] (right from 0.5),
or the layout of GSM8K's model answers (see `judge.reading`).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rewardmesh.audit.rows import Prompt, Row, is_gsm8k, read_rows
from rewardmesh.client import sample
from rewardmesh.v1.common_pb2 import Sample

_FIELDS = ("prompt", "completion", "label", "references", "id", "group_id")


@dataclass(frozen=True)
class LabelledAnswer:
    """An answer, and whether it is right by whoever labelled it."""

    id: str
    prompt: Prompt
    completion: str
    right: bool
    references: tuple[str, ...] = ()
    group_id: str = ""

    def to_sample(self, id: str, completion: str | None = None) -> Sample:
        """As a verifier takes it, perhaps with another text."""
        text = self.completion if completion is None else completion
        return sample(id, self.prompt, text, references=self.references, group_id=self.group_id)


@dataclass(frozen=True)
class VerifierData:
    """Labelled answers with a name for the report."""

    name: str
    answers: tuple[LabelledAnswer, ...]

    def describe(self) -> str:
        """One line for the report."""
        right = sum(answer.right for answer in self.answers)
        return f"{self.name}: {len(self.answers)} answers, {right} labelled right and {len(self.answers) - right} wrong"


def read_verifier_data(path: Path, limit: int = 0) -> VerifierData:
    """Read labelled answers.

    Args:
        limit: most answers, drawn from the whole file with a fixed seed; 0 for all. Groups are kept whole only where there is no limit.

    Raises:
        AuditError: an unreadable file, or a line that is wrong, with line and field.
    """
    answers = [answer for row in read_rows(path) for answer in _answers(row)]
    return VerifierData(path.name, _some(answers, limit))


def _some(answers: Sequence[LabelledAnswer], limit: int) -> tuple[LabelledAnswer, ...]:
    if not limit or limit >= len(answers):
        return tuple(answers)
    return tuple(answers[index] for index in sorted(random.Random(0).sample(range(len(answers)), limit)))


def _answers(row: Row) -> Iterator[LabelledAnswer]:
    if not is_gsm8k(row.fields):
        row.refuse_misspelt(_FIELDS)
        completion = row.text("completion", default="")
        if "completion" not in row.fields:
            raise row.wrong("completion", "is missing")
        group = row.text("group_id", default="")
        yield LabelledAnswer(row.id(), row.prompt(), completion, _right(row), row.texts("references"), group)
        return
    references = (row.text("reference"),)
    for index, each in enumerate(row.objects("answers"), start=1):
        text, right = each.get("solution"), each.get("is_correct")
        if not isinstance(text, str) or not isinstance(right, bool):
            raise row.wrong(f"answers[{index - 1}]", "must be {solution: text, is_correct: true or false}")
        yield LabelledAnswer(f"{row.number}.{index}", row.prompt("question"), text, right, references, str(row.number))


def _right(row: Row) -> bool:
    label = row.fields.get("label")
    if isinstance(label, bool):
        return label
    if isinstance(label, int | float) and 0 <= label <= 1:
        return label >= 0.5
    raise row.wrong("label", f"must be true, false or a score in [0, 1], is {label!r}")
