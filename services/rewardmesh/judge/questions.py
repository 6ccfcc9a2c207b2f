"""From items to what the model is asked: the values of each text, and the scale of its answer.

One question is one text (a pair in one order, an answer with one criterion). Several questions make an item; it has an answer only when
each of them has one.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

from rewardmesh.judge.constitutions import Constitutions
from rewardmesh.judge.rendering import Value, dialogue
from rewardmesh.judge.template import Criterion, JudgeTemplate, Scale
from rewardmesh.serving.validation import absence, sample_problem
from rewardmesh.v1 import common_pb2 as pb


@dataclass(frozen=True)
class Question:
    """The values of one text, and the labels of its answer."""

    values: dict[str, Value]
    scale: Scale


@dataclass(frozen=True)
class Item:
    """Questions that give one outcome.

    Attributes:
        questions: empty when there is a problem.
        group: items of one prompt are computed together.
        problem: why it is not put to the model.
        prompts: fingerprints of constitutions that it names, beside the template's.
        turn: counts repetitions: the same questions in another turn have votes of their own.
    """

    questions: tuple[Question, ...]
    group: Hashable = ""
    problem: pb.Absence | None = None
    prompts: tuple[str, ...] = ()
    turn: int = 0


class Writer:
    """Writes the questions of one call with one template; `clean` breaks up the model's control tokens."""

    def __init__(self, template: JudgeTemplate, clean: Callable[[str], str], constitutions: Constitutions) -> None:
        self._template = template
        self._clean = clean
        self._constitutions = constitutions

    def pair(
        self, prompt: Sequence[pb.Message], a: str, b: str, references: Sequence[str], context: pb.Context, *, both_orders: bool
    ) -> Item:
        """A pair in one or both orders."""
        texts = {"a": a, "b": b}
        orders = ((a, b), (b, a)) if both_orders else ((a, b),)
        varying: list[dict[str, Value]] = [{"a": self._clean(first), "b": self._clean(second)} for first, second in orders]
        return self._item(prompt, texts, references, context, _criteria(context), [(each, self._template.scale) for each in varying])

    def sample(self, sample: pb.Sample, criteria: Sequence[Criterion]) -> Item:
        """An answer with each criterion; `criteria` not empty."""
        completion: dict[str, Value] = {"completion": self._clean(sample.completion.text)}
        varying = [(completion | {"criterion": self._criterion(each)}, each.scale or self._template.scale) for each in criteria]
        return self._item(sample.prompt, {"completion.text": sample.completion.text}, sample.references, sample.context, criteria, varying)

    def listed(
        self, prompt: Sequence[pb.Message], texts: Sequence[str], references: Sequence[str], context: pb.Context, order: Sequence[int]
    ) -> Item:
        """Answers in one prompt, in an order; at most as many as the template has labels."""
        scale = Scale(self._template.labels[: len(texts)])
        answers: dict[str, Value] = {
            "answers": [{"label": label, "text": self._clean(texts[i])} for label, i in zip(scale.words, order, strict=True)]
        }
        named = {f"completions[{index}].text": text for index, text in enumerate(texts)}
        return self._item(prompt, named, references, context, _criteria(context), [(answers, scale)])

    def critique(self, sample: pb.Sample, max_points: int) -> Item:
        """An answer to criticise."""
        values: dict[str, Value] = {"completion": self._clean(sample.completion.text), "max_points": max_points}
        texts = {"completion.text": sample.completion.text}
        return self._item(
            sample.prompt, texts, sample.references, sample.context, _criteria(sample.context), [(values, self._template.scale)]
        )

    def _item(
        self,
        prompt: Sequence[pb.Message],
        texts: dict[str, str],
        references: Sequence[str],
        context: pb.Context,
        criteria: Sequence[Criterion],
        varying: Iterable[tuple[dict[str, Value], Scale]],
    ) -> Item:
        for field, text in texts.items():
            if problem := _problem(prompt, text, field):
                return Item((), problem=problem)
        given = {"references": references, "notes": context.notes}
        if self._template.needs and not any(given[name] for name in self._template.needs):
            why = f"template {self._template.name!r} needs {' or '.join(self._template.needs)}, the item has none"
            return Item((), problem=absence(pb.ABSENCE_REASON_NOT_APPLICABLE, why))
        resolved = self._constitutions.resolve(context.principles)
        if isinstance(resolved, pb.Absence):
            return Item((), problem=resolved)
        principles, prompts = resolved
        # Where the principles are what is graded by, each is asked about by itself.
        shown = () if self._template.per_principle else (*self._template.principles, *principles)
        shared: dict[str, Value] = {
            "prompt": self._clean(dialogue(prompt)),
            "references": list(map(self._clean, references)),
            "principles": [self._clean(principle.text) for principle in shown],
            "notes": list(map(self._clean, context.notes)),
            "criteria": list(map(self._criterion, criteria)),
        }
        return Item(tuple(Question(shared | values, scale) for values, scale in varying), shared["prompt"], prompts=prompts)

    def _criterion(self, criterion: Criterion) -> dict[str, object]:
        return criterion.values() | {"id": self._clean(criterion.id), "text": self._clean(criterion.text)}


def _problem(prompt: Sequence[pb.Message], text: str, field: str) -> pb.Absence | None:
    problem = sample_problem(pb.Sample(prompt=prompt, completion=pb.Completion(text=text)))
    if problem and not text:
        problem.detail = problem.detail.replace("completion.text", field)
    return problem


def _criteria(context: pb.Context) -> list[Criterion]:
    return [Criterion(c.id, c.text, c.weight or 1.0) for c in context.criteria]
