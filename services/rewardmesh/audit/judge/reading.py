"""Reads what a judge is audited on from JSONL, plain or gzipped. The layout is told from the fields of each line:

    {"prompt", "a", "b", "label"?, "a_model"?, "b_model"?, "references"?, "id"?}     label: "a", "b", "tie" or P(a better)
    {"prompt", "chosen", "rejected", ...}                                            chosen is better
    {"chosen", "rejected"}                                                           whole dialogues, "\\n\\nHuman: ...\\n\\nAssistant: ..."
    {"prompt", "answers": [text, ...]}                                               a group, without labels
    {"question", "reference", "answers": [{"solution", "is_correct", "model"?}]}     GSM8K's model answers

The last gives pairs of a right and a wrong answer, pairs of two alike in that, and a group.
"""

from __future__ import annotations

import itertools
import random
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from rewardmesh.audit.errors import AuditError
from rewardmesh.audit.judge.data import Answer, AuditGroup, AuditPair, JudgeData
from rewardmesh.audit.rows import Prompt, Row, is_gsm8k, read_rows

_TURN = re.compile(r"\n\n(Human|Assistant): ?")
_ROLES = {"Human": "user", "Assistant": "assistant"}
_FIELDS = ("prompt", "a", "b", "label", "a_model", "b_model", "references", "id", "chosen", "rejected", "answers")
_LABELS = {"a": 1.0, "b": 0.0, "tie": 0.5}


def read_judge_data(path: Path, limit: int = 0) -> JudgeData:
    """Read pairs and groups.

    Args:
        limit: most lines, drawn from the whole file with a fixed seed; 0 for all.

    Raises:
        AuditError: an unreadable file, or a line that is wrong, with line and field.
    """
    rows = list(read_rows(path))
    if limit and limit < len(rows):
        rows = [rows[index] for index in sorted(random.Random(0).sample(range(len(rows)), limit))]
    pairs: list[AuditPair] = []
    groups: list[AuditGroup] = []
    left_out: Counter[str] = Counter()
    for row in rows:
        for item in _items(row):
            match item:
                case AuditPair():
                    pairs.append(item)
                case AuditGroup():
                    groups.append(item)
                case str():
                    left_out[item] += 1
    if not pairs:
        raise AuditError(f"{path}: holds no pair of answers" + "".join(f"; {why}: {count}" for why, count in left_out.items()))
    return JudgeData(path.name, tuple(pairs), tuple(groups), tuple(left_out.items()))


def read_paraphrases(path: Path) -> tuple[tuple[str, str], ...]:
    """Lines of {"original", "paraphrase"}: whole prompts or answers, and the same in other words."""
    return tuple((row.text("original"), row.text("paraphrase")) for row in read_rows(path))


def _items(row: Row) -> Iterator[AuditPair | AuditGroup | str]:
    """What a line holds; a text says why it is left out."""
    fields = row.fields
    if is_gsm8k(fields):
        yield from _gsm8k(row)
        return
    row.refuse_misspelt(_FIELDS)
    if "answers" in fields:
        texts = row.texts("answers")
        prompt = row.prompt()
        if len(texts) == 2:
            yield AuditPair(row.id(), prompt, Answer(texts[0]), Answer(texts[1]), None, row.texts("references"))
            return
        if len(texts) < 2 or not all(texts):
            raise row.wrong("answers", "must be at least two texts that are not empty")
        # Groups alone would leave most probes without anything: neighbours are compared as pairs too.
        for index, (a, b) in enumerate(itertools.pairwise(texts)):
            yield AuditPair(f"{row.id()}.{index}", prompt, Answer(a), Answer(b), None, row.texts("references"))
        yield AuditGroup(row.id(), prompt, tuple(map(Answer, texts)), row.texts("references"))
    elif "chosen" in fields and "prompt" not in fields:
        yield _dialogues(row)
    else:
        first, second = ("chosen", "rejected") if "chosen" in fields else ("a", "b")
        label = 1.0 if first == "chosen" else _label(row)
        better, other = (Answer(row.text(field), row.text(f"{field}_model", default="")) for field in (first, second))
        yield AuditPair(row.id(), row.prompt(), better, other, label, row.texts("references"))


def _label(row: Row) -> float | None:
    label = row.fields.get("label")
    if label is None:
        return None
    if isinstance(label, str) and label in _LABELS:
        return _LABELS[label]
    if isinstance(label, int | float) and not isinstance(label, bool) and 0 <= label <= 1:
        return float(label)
    raise row.wrong("label", f'must be "a", "b", "tie" or the probability in [0, 1] that a is better, is {label!r}')


def _dialogues(row: Row) -> AuditPair | str:
    chosen, rejected = (_turns(row, field) for field in ("chosen", "rejected"))
    if chosen[:-1] != rejected[:-1]:
        return "the dialogues differ before the last answer"
    if not chosen[-1][1] or not rejected[-1][1]:
        return "the last answer is empty"
    return AuditPair(row.id(), chosen[:-1], Answer(chosen[-1][1]), Answer(rejected[-1][1]), 1.0)


def _turns(row: Row, field: str) -> Prompt:
    before, *parts = _TURN.split(row.text(field))
    turns = tuple((_ROLES[who], text.strip()) for who, text in zip(parts[::2], parts[1::2], strict=True))
    if before.strip() or len(turns) < 2 or turns[-1][0] != "assistant":
        raise row.wrong(
            field, r'must be a dialogue "\n\nHuman: ...\n\nAssistant: ..." that ends with an answer, or have a prompt beside it'
        )
    return turns


def _gsm8k(row: Row) -> Iterator[AuditPair | AuditGroup]:
    """All pairs of a right and a wrong answer, one pair of like ones, and the group."""
    prompt, references = row.prompt("question"), (row.text("reference"),)
    answers = []
    for index, each in enumerate(row.objects("answers")):
        text, right, model = each.get("solution"), each.get("is_correct"), each.get("model", "")
        if not isinstance(text, str) or not text or not isinstance(right, bool) or not isinstance(model, str):
            raise row.wrong(f"answers[{index}]", "must be {solution: text, is_correct: true or false, model?: text}")
        answers.append((Answer(text, model), right))
    alike = []
    for (i, (a, a_right)), (j, (b, b_right)) in itertools.combinations(enumerate(answers), 2):
        pair = AuditPair(f"{row.id()}.{i}-{j}", prompt, a, b, 0.5 if a_right == b_right else float(a_right), references)
        if a_right != b_right:
            yield pair
        elif a.text != b.text:
            alike.append(pair)
    if alike:
        yield alike[row.number % len(alike)]
    if len(answers) >= 3:
        yield AuditGroup(row.id(), prompt, tuple(answer for answer, _ in answers), references)
