"""From items to the questions that the model reads, and back from their answers to label probabilities.

One question is one text (a pair in one order, an answer with one criterion). Several questions make an item; it has an answer only when
each of them has one.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from rewardmesh.engine.cached import model_keys
from rewardmesh.engine.interface import ServedModel
from rewardmesh.engine.text import fit, prompt_ids
from rewardmesh.judge.labels import Labels
from rewardmesh.judge.template import Criterion, JudgeTemplate, Value, dialogue
from rewardmesh.judge.verdicts import label_probabilities
from rewardmesh.serving.batching import Done, Work
from rewardmesh.serving.validation import sample_problem
from rewardmesh.v1 import common_pb2 as pb

Payload = tuple[list[int], tuple[int, ...]]
"""Token ids of a question, and the tokens of its labels."""


@dataclass(frozen=True)
class Question:
    """One text, tokenised."""

    ids: list[int]


@dataclass(frozen=True)
class Item:
    """Questions that give one outcome.

    Attributes:
        questions: empty when there is a problem.
        group: items of one prompt are computed together.
        problem: why it is not put to the model.
    """

    questions: tuple[Question, ...]
    group: Hashable
    problem: pb.Absence | None = None


@dataclass(frozen=True)
class Answer:
    """What came of an item: label probabilities of each question, or an absence, what it cost, and whether nothing was computed for it."""

    probabilities: tuple[tuple[float, ...], ...]
    absence: pb.Absence | None
    queue_seconds: float
    compute_seconds: float
    tokens_read: int
    tokens_computed: int
    cached: bool


class Writer:
    """Writes the questions of one call: one template, one version of the model. Slow: tokenises."""

    def __init__(self, model: ServedModel, template: JudgeTemplate, labels: Labels) -> None:
        self._model = model
        self._template = template
        self._labels = labels

    def pair(
        self, prompt: Sequence[pb.Message], a: str, b: str, references: Sequence[str], context: pb.Context, *, both_orders: bool
    ) -> Item:
        """A pair in one or both orders."""
        for field, text in (("a", a), ("b", b)):
            if problem := _problem(prompt, text, field):
                return Item((), "", problem)
        shared = self._shared(prompt, references, context, _criteria(context))
        orders = ((a, b), (b, a)) if both_orders else ((a, b),)
        texts = [shared | {"a": self._clean(first), "b": self._clean(second)} for first, second in orders]
        return self._item(texts, cast(str, shared["prompt"]))

    def sample(self, sample: pb.Sample, criteria: Sequence[Criterion]) -> Item:
        """An answer with each criterion; `criteria` not empty."""
        if problem := _problem(sample.prompt, sample.completion.text, "completion.text"):
            return Item((), "", problem)
        shared = self._shared(sample.prompt, sample.references, sample.context, criteria)
        shared["completion"] = self._clean(sample.completion.text)
        texts = [shared | {"criterion": self._criterion(criterion)} for criterion in criteria]
        return self._item(texts, cast(str, shared["prompt"]))

    def _shared(
        self, prompt: Sequence[pb.Message], references: Iterable[str], context: pb.Context, criteria: Sequence[Criterion]
    ) -> dict[str, Value]:
        return {
            "prompt": self._clean(dialogue(prompt)),
            "references": list(map(self._clean, references)),
            "principles": list(map(self._clean, context.principles)),
            "notes": list(map(self._clean, context.notes)),
            "criteria": list(map(self._criterion, criteria)),
        }

    def _criterion(self, criterion: Criterion) -> dict[str, object]:
        return {"id": self._clean(criterion.id), "text": self._clean(criterion.text), "weight": criterion.weight}

    def _clean(self, text: str) -> str:
        return self._labels.defuse(self._model, text)

    def _item(self, texts: Iterable[Mapping[str, Value]], group: str) -> Item:
        questions = []
        for values in texts:
            text = self._template.render(values)
            if isinstance(text, pb.Absence):
                return Item((), group, text)
            ids = prompt_ids(self._model.tokenizer, [pb.Message(role=pb.ROLE_USER, content=text)])
            # Never cut: half an answer gets another verdict.
            fitted = fit(ids, self._model.max_tokens, "refuse")
            if isinstance(fitted, pb.Absence):
                return Item((), group, fitted)
            questions.append(Question(fitted[0]))
        return Item(tuple(questions), group)


def works(service: str, model: ServedModel, label_ids: tuple[int, ...], items: Sequence[Item]) -> list[Work[Payload]]:
    """One work item a question, in order. A label's probability is computed, not sampled: its key has no sample index."""
    by_group: dict[Hashable, list[list[int]]] = {}
    for item in items:
        by_group.setdefault(item.group, []).extend(question.ids for question in item.questions)
    shared = {group: model.shareable(_shared_tokens(members)) for group, members in by_group.items()}
    keys = model_keys(service, model, "label_log_probs", labels=label_ids)
    return [
        Work(
            (question.ids, label_ids),
            lane=model,
            group=item.group,
            tokens=len(question.ids),
            shared_tokens=shared[item.group],
            key=keys.key(question.ids),
        )
        for item in items
        for question in item.questions
    ]


def read_labels(lane: Hashable, payloads: Sequence[Payload]) -> list[tuple[list[float], int]]:
    """Log-probabilities (nats) of each question's labels, and the tokens computed for it; runs on the engine's thread."""
    return cast(ServedModel, lane).label_log_probs(payloads)


def answers(items: Sequence[Item], done: Sequence[Done[list[float]]], min_label_mass: float) -> list[Answer]:
    """Gather what came of the questions into one answer an item."""
    rest = iter(done)
    return [_answer(item, [next(rest) for _ in item.questions], min_label_mass) for item in items]


def _answer(item: Item, done: Sequence[Done[list[float]]], min_label_mass: float) -> Answer:
    lost = item.problem
    probabilities: list[tuple[float, ...]] = []
    for each in done:
        read = each.absence if each.result is None else label_probabilities(each.result, min_label_mass)
        if isinstance(read, tuple):
            probabilities.append(read)
        else:
            lost = lost or read
    return Answer(
        probabilities=() if lost else tuple(probabilities),
        absence=lost,
        # The questions of an item wait and run side by side, mostly in one batch.
        queue_seconds=max((each.queue_seconds for each in done), default=0.0),
        compute_seconds=max((each.compute_seconds for each in done), default=0.0),
        tokens_read=sum(len(question.ids) for question in item.questions),
        tokens_computed=sum(each.tokens_computed for each in done),
        cached=bool(done) and all(each.cached for each in done),
    )


def _problem(prompt: Sequence[pb.Message], text: str, field: str) -> pb.Absence | None:
    problem = sample_problem(pb.Sample(prompt=prompt, completion=pb.Completion(text=text)))
    if problem and not text:
        problem.detail = problem.detail.replace("completion.text", field)
    return problem


def _criteria(context: pb.Context) -> list[Criterion]:
    return [Criterion(c.id, c.text, c.weight or 1.0) for c in context.criteria]


def _shared_tokens(members: Sequence[list[int]]) -> int:
    """Length of the prefix that all share."""
    if len(members) < 2:
        return 0
    # What the least and the greatest share, all share.
    pairs = zip(min(members), max(members), strict=False)
    common = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
    return common
