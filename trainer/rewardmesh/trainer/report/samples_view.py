"""Samples prepared for reading: held-out problems before and after side by side, and groups of training samples from the ledger."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rewardmesh.trainer.report.evaluation import EvaluationRow
from rewardmesh.trainer.report.numbers import text_of
from rewardmesh.trainer.report.run_data import TrainingStep

LONGEST_TEXT = 1200
PROBLEMS_SHOWN = 20
_SAMPLES_SHOWN = 4
# Control characters would vanish or break the page: they are shown as their pictures (U+2400...).
_PICTURES = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | {127: 0x2421}


@dataclass(frozen=True)
class Text:
    """A text cut to a readable size, and how many characters were cut."""

    shown: str
    cut: int


@dataclass(frozen=True)
class Answer:
    """One completion of a held-out problem. `mark` is "right", "wrong" or "no verdict"."""

    mark: str
    why: str
    completion: Text
    facts: str


@dataclass(frozen=True)
class Problem:
    """A held-out problem with its answers before and after; None where it was not evaluated."""

    id: str
    decoding: str
    prompt: Text
    reference: Text | None
    before: Answer | None
    after: Answer | None


@dataclass(frozen=True)
class TrainingSample:
    """A sample of the ledger as lines of text."""

    id: str
    policy_version: str
    outcome: str
    completion: Text
    facts: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class TrainingGroup:
    """The samples of one prompt at one step, and how many of the group are not shown."""

    step: int
    prompt: Text
    samples: Sequence[TrainingSample]
    hidden: int


def shorten(text: str, longest: int = LONGEST_TEXT) -> Text:
    """At most `longest` characters of a text, with control characters made visible."""
    return Text(text[:longest].translate(_PICTURES), max(0, len(text) - longest))


def paired_problems(before: Sequence[EvaluationRow], after: Sequence[EvaluationRow]) -> list[Problem]:
    """At most `PROBLEMS_SHOWN` problems spread evenly over the evaluation (not chosen by outcome), in its order."""
    first = {(row.problem_id, row.decoding): row for row in before}
    last = {(row.problem_id, row.decoding): row for row in after}
    keys = list(dict.fromkeys([*first, *last]))
    keys = [key for key in keys if key[1] == "sampled"] or keys
    count = min(PROBLEMS_SHOWN, len(keys))
    chosen = [keys[index * len(keys) // count] for index in range(count)]
    return [_problem(key, first.get(key), last.get(key)) for key in chosen]


def flips(before: Sequence[EvaluationRow], after: Sequence[EvaluationRow]) -> dict[str, dict[str, int]]:
    """Per way of decoding: how many problems became right, became wrong, stayed right, stayed wrong, or lack a verdict."""
    last = {(row.problem_id, row.decoding): row for row in after}
    counts: dict[str, dict[str, int]] = {}
    for row in before:
        other = last.get((row.problem_id, row.decoding))
        if other is None:
            continue
        names = {(False, True): "became right", (True, False): "became wrong", (True, True): "stayed right", (False, False): "stayed wrong"}
        name = "without a verdict" if row.correct is None or other.correct is None else names[row.correct, other.correct]
        bucket = counts.setdefault(row.decoding, {})
        bucket[name] = bucket.get(name, 0) + 1
    return counts


def training_groups(step: TrainingStep) -> TrainingGroup | None:
    """The first group of a step with at most four of its samples; None for a step without samples."""
    if not step.rows:
        return None
    group_id = step.rows[0]["group_id"]
    members = [row for row in step.rows if row["group_id"] == group_id]
    shown = members[:_SAMPLES_SHOWN]
    return TrainingGroup(step.step, shorten(str(members[0]["prompt"])), [_training_sample(row) for row in shown], len(members) - len(shown))


def seen_versions(steps: Sequence[TrainingStep]) -> dict[str, object]:
    """Model, version and fingerprint per signal as the ledger's shown steps recorded them; for runs without a summary."""
    versions: dict[str, object] = {}
    for step in steps:
        for row in step.rows:
            for signal, record in _pairs(row["provenance"]):
                versions[str(signal)] = json.loads(str(record))
    return versions


def _problem(key: tuple[str, str], before: EvaluationRow | None, after: EvaluationRow | None) -> Problem:
    any_row = before or after
    assert any_row is not None  # a key comes from one of the two
    reference = None if any_row.reference is None else shorten(any_row.reference)
    return Problem(key[0], key[1], shorten(any_row.prompt), reference, _answer(before), _answer(after))


def _answer(row: EvaluationRow | None) -> Answer | None:
    if row is None:
        return None
    mark = {True: "right", False: "wrong", None: "no verdict"}[row.correct]
    facts = [f"{row.length} tokens, {row.finish_reason}"]
    if row.reward is not None:
        facts.append(f"reward {text_of(row.reward)}")
    facts += [f"{name} {'absent' if value is None else text_of(value)}" for name, value in row.components.items()]
    why = shorten(" ".join(part for part in (row.absence, row.evidence) if part), 300)
    return Answer(mark, why.shown + ("…" if why.cut else ""), shorten(row.completion), " · ".join(facts))


def _training_sample(row: Mapping[str, object]) -> TrainingSample:
    absences = {str(name): str(reason) for name, reason in _pairs(row["component_absences"])}
    values = [
        f"{name} {f'absent ({absences.get(str(name))})' if value is None else text_of(value)}" for name, value in _pairs(row["components"])
    ]
    values += [
        f"{name} absent ({reason})" for name, reason in absences.items() if name not in {str(key) for key, _ in _pairs(row["components"])}
    ]
    facts = [("Components", " · ".join(values) or "none")]
    facts.append(("Length", f"{row['length']} tokens, finished: {row['finish_reason']}, asked {row['attempts']}×"))
    facts.append(
        ("Log-prob", f"sampling {text_of(row['sampling_log_prob'])}, reference {text_of(row['reference_log_prob'])} (nats, summed)")
    )
    facts.append(("Credit", "left out" if row["credit"] is None else f"{text_of(row['credit'])} ({row['credit_kind'] or 'unnamed'})"))
    facts += [(f"From {signal}", _provenance(str(record))) for signal, record in _pairs(row["provenance"])]
    if row["reward"] is None:
        outcome = " ".join(str(part) for part in ("absent:", row["absence"], row["absence_detail"], row["advice"]) if part)
    else:
        outcome = f"reward {text_of(row['reward'])}"
    return TrainingSample(str(row["sample_id"]), str(row["policy_version"]), outcome, shorten(str(row["completion"])), facts)


def _pairs(column: object) -> list[tuple[object, object]]:
    return list(column) if isinstance(column, list) else []


def _provenance(record: str) -> str:
    fields = json.loads(record)
    text = ", ".join(f"{name} {text_of(value)}" for name, value in fields.items()) if isinstance(fields, dict) else record
    return shorten(text, 400).shown
