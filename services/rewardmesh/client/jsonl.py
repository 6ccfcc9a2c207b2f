"""Scores a JSONL file of any size: read lazily, sent in batches, written in order, bad lines kept as absences.

An input line is {"prompt": str or [{"role", "content"}], "completion": str, "id"?, "references"?: [str], "group_id"?, "tags"?: {str: str}};
other fields are allowed. Each output line holds the input's fields and "outcome": {"value", "absence", ...}. For programs the lines of a
group are adjacent, since answers to one prompt are judged against each other.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rewardmesh.client._sync import Client
from rewardmesh.client.messages import Model, sample
from rewardmesh.client.results import Absence, AbsenceReason, Component, Evaluation, Score, Verdict
from rewardmesh.v1.common_pb2 import Sample


@dataclass(frozen=True)
class RewardScorer:
    """Score with a reward model."""

    model: Model = None


@dataclass(frozen=True)
class VerifierScorer:
    """Score with a verifier."""

    name: str


@dataclass(frozen=True)
class ProgramScorer:
    """Score with a reward program of a gateway."""

    name: str = ""


Scorer = RewardScorer | VerifierScorer | ProgramScorer


@dataclass
class _Line:
    number: int
    fields: dict[str, Any]
    sample: Sample | None = None
    outcome: dict[str, Any] | None = None


def score_jsonl(
    client: Client,
    lines: Iterable[str | bytes] | Path,
    out_path: Path,
    scorer: Scorer,
    *,
    on_progress: Callable[[int, Mapping[str, int]], None] | None = None,
    batch_lines: int = 1024,
    timeout_s: float | None = None,
) -> dict[str, int]:
    """Score lines (or the file at a Path) and write one line for each to out_path, which appears when all is done.

    A line that is no JSON, lacks a field or has one of a wrong type gets the absence INVALID_INPUT and never stops the run; a request that
    is wrong as a whole (CallFailed) does. on_progress is called after each batch with the lines done and the counts so far.
    timeout_s is for one batch. At most a batch and the group it ends in are in memory.
    Returns counts: "SCORED", and the absences by reason.
    """
    if batch_lines < 1:
        raise ValueError("batch_lines is at least 1")
    counts: Counter[str] = Counter()
    done = 0
    partial = out_path.with_name(f".{out_path.name}.{os.getpid()}.partial")
    try:
        with ExitStack() as stack:
            source = stack.enter_context(lines.open("rb")) if isinstance(lines, Path) else lines
            out = stack.enter_context(partial.open("w", encoding="utf-8"))
            parsed = (_parse(number, line) for number, line in enumerate(source, start=1))
            for batch in _batches(parsed, batch_lines, whole_groups=isinstance(scorer, ProgramScorer)):
                _score(client, batch, scorer, timeout_s)
                for line in batch:
                    outcome = line.outcome or {}
                    absence = outcome.get("absence")
                    counts[absence["reason"] if absence else "SCORED"] += 1
                    out.write(json.dumps({**line.fields, "outcome": outcome}) + "\n")
                done += len(batch)
                if on_progress is not None:
                    on_progress(done, dict(counts))
        partial.replace(out_path)
    finally:
        partial.unlink(missing_ok=True)
    return dict(counts)


def _parse(number: int, line: str | bytes) -> _Line:
    fields: object = None
    try:
        fields = json.loads(line, parse_constant=_refuse_constant)
        if not isinstance(fields, dict):
            raise ValueError("not a JSON object")
        return _Line(number, fields, sample=_sample(number, fields))
    except (ValueError, TypeError, RecursionError) as error:
        return _bad_line(number, fields if isinstance(fields, dict) else {}, str(error))


def _bad_line(number: int, fields: dict[str, Any], why: str) -> _Line:
    absence = Absence(AbsenceReason.INVALID_INPUT, f"line {number}: {why}")
    return _Line(number, fields, outcome={"value": None, "absence": _absence(absence), "line": number})


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _sample(number: int, fields: Mapping[str, Any]) -> Sample:
    for name in ("id", "group_id"):
        if not isinstance(fields.get(name, ""), str):
            raise TypeError(f"{name} must be a string")
    for name in ("prompt", "completion"):
        if name not in fields:
            raise ValueError(f"{name} is missing")
    if not isinstance(fields["completion"], str):
        raise TypeError("completion must be a string")
    references, tags = fields.get("references", []), fields.get("tags", {})
    if not isinstance(references, list) or not all(isinstance(each, str) for each in references):
        raise TypeError("references must be a list of strings")
    if not isinstance(tags, dict) or not all(isinstance(each, str) for each in tags.values()):
        raise TypeError("tags must map strings to strings")
    # The line number is the id on the wire: ids of a file need not be unique.
    return sample(
        str(number),
        _prompt(fields["prompt"]),
        fields["completion"],
        group_id=fields.get("group_id", ""),
        references=references,
        tags=tags,
    )


def _prompt(prompt: object) -> str | list[tuple[str, str]]:
    if isinstance(prompt, str):
        return prompt
    if not isinstance(prompt, list) or not prompt:
        raise TypeError("prompt must be a string or a list of messages")
    for turn in prompt:
        if not isinstance(turn, dict) or not isinstance(turn.get("role"), str) or not isinstance(turn.get("content"), str):
            raise TypeError("each message of prompt must have a role and a content, both strings")
    return [(turn["role"], turn["content"]) for turn in prompt]


def _batches(lines: Iterator[_Line], size: int, *, whole_groups: bool) -> Iterator[list[_Line]]:
    batch: list[_Line] = []
    finished: set[str] = set()
    for line in lines:
        group = _group(line)
        if len(batch) >= size and not (whole_groups and group and group == _group(batch[-1])):
            finished.update(_group(each) for each in batch)
            yield batch
            batch = []
        if whole_groups and group and group in finished:
            line = _bad_line(line.number, line.fields, f"group {group!r} goes on after other groups: its lines must be adjacent")  # noqa: PLW2901
        batch.append(line)
    if batch:
        yield batch


def _group(line: _Line) -> str:
    return line.sample.group_id if line.sample is not None else ""


def _score(client: Client, batch: Sequence[_Line], scorer: Scorer, timeout_s: float | None) -> None:
    waiting = [line for line in batch if line.sample is not None]
    samples = [line.sample for line in waiting if line.sample is not None]
    results: Sequence[Score] | Sequence[Verdict] | Sequence[Evaluation]
    match scorer:
        case RewardScorer(model):
            results = client.score(samples, model=model, timeout_s=timeout_s)
        case VerifierScorer(name):
            results = client.verify(samples, name, timeout_s=timeout_s)
        case ProgramScorer(name):
            results = client.evaluate(samples, program=name, timeout_s=timeout_s).evaluations
    outcomes = [_outcome(result) for result in results]
    for line, outcome in zip(waiting, outcomes, strict=True):
        line.outcome = outcome


def _outcome(result: Score | Verdict | Evaluation) -> dict[str, Any]:
    outcome: dict[str, Any] = {"value": result.value, "absence": result.absence and _absence(result.absence)}
    match result:
        case Score(objectives=objectives) if objectives:
            outcome["objectives"] = dict(objectives)
        case Verdict(status=status, message=message) if status is not None:
            outcome |= {"status": status, "evidence": message.verdict.evidence, "extracted_answer": message.verdict.extracted_answer}
        case Evaluation(advice=advice, components=components):
            outcome |= {"advice": advice, "components": {name: _component(each) for name, each in components.items()}}
    return outcome


def _component(component: Component) -> dict[str, Any]:
    return {"value": component.value, "absence": component.absence and _absence(component.absence)}


def _absence(absence: Absence) -> dict[str, Any]:
    written: dict[str, Any] = {"reason": str(absence.reason), "detail": absence.detail, "retryable": absence.retryable}
    if absence.retry_after_s is not None:
        written["retry_after_s"] = absence.retry_after_s
    return written
