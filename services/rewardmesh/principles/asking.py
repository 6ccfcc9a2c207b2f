"""Asks a judge about labelled pairs: how probable the label is to it, with or without principles, and what principle explains it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from rewardmesh.audit.judge import AuditPair
from rewardmesh.client import AsyncClient, Preference, pair
from rewardmesh.principles.settings import Settings
from rewardmesh.v1.common_pb2 import Context, ModelRef

SLICE = 32
"""Pairs a call: small enough that the progress moves."""


class JudgeChanged(RuntimeError):
    """Another model or version answered than before: verdicts of different judges cannot be compared."""


class Asker:
    """Questions to one judge.

    Attributes:
        absent: pairs without a verdict, by reason, all questions together.
        judge: who answered, in words; "" before any verdict.
    """

    def __init__(self, client: AsyncClient, settings: Settings, on_answers: Callable[[int], None]) -> None:
        self._client = client
        self._settings = settings
        self._on_answers = on_answers
        self._answered_by: tuple[str, int] | None = None
        self.absent: Counter[str] = Counter()
        self.judge = ""

    async def label_chances(self, pairs: Sequence[AuditPair], principles: Sequence[str]) -> list[float | None]:
        """Probability of the labelled answer of each pair, both orders; None without a verdict.

        Raises:
            JudgeChanged: see there.
            CallFailed: the whole call failed.
        """
        context = Context(principles=principles)
        found: list[float | None] = []
        for part in _slices(pairs):
            asked = [pair(str(n), each.prompt, each.a.text, each.b.text, context=context) for n, each in enumerate(part)]
            answers = await self._client.compare(asked, model=self._settings.model or None, template=self._settings.template)
            for each, answer in zip(part, answers, strict=True):
                chance = self._value(answer)
                found.append(chance if chance is None or _a_is_labelled(each) else 1 - chance)
            self._on_answers(len(part))
        return found

    async def proposals(self, pairs: Sequence[AuditPair]) -> list[str]:
        """Lines that the judge wrote to explain the labels; the labelled answer is shown as the first one, only in this order.

        Raises:
            JudgeChanged: see there.
            CallFailed: the whole call failed, such as when the service has no such template.
        """
        written: list[str] = []
        for part in _slices(pairs):
            asked = [
                pair(str(n), each.prompt, *((each.a.text, each.b.text) if _a_is_labelled(each) else (each.b.text, each.a.text)))
                for n, each in enumerate(part)
            ]
            answers = await self._client.compare(
                asked,
                model=self._settings.model or None,
                template=self._settings.proposing_template,
                both_orders=False,
                want_rationale=True,
            )
            for answer in answers:
                if self._value(answer) is not None:
                    written += [line for text in answer.message.preference.rationales for line in text.splitlines() if line.strip()]
            self._on_answers(len(part))
        return written

    def _value(self, answer: Preference) -> float | None:
        if answer.absence:
            self.absent[str(answer.absence.reason)] += 1
            return None
        model = answer.message.provenance.model
        if self._answered_by not in (None, (model.name, model.version)):
            raise JudgeChanged(
                f"the judge changed from {self.judge} to {_describe(model)}: keep others from activating a version meanwhile"
            )
        self._answered_by = (model.name, model.version)
        self.judge = self.judge or _describe(model)
        return answer.value


def _describe(model: ModelRef) -> str:
    return f"{model.name} version {model.version} ({model.fingerprint})"


def _a_is_labelled(each: AuditPair) -> bool:
    return each.label is not None and each.label > 0.5


def _slices(pairs: Sequence[AuditPair]) -> list[Sequence[AuditPair]]:
    return [pairs[start : start + SLICE] for start in range(0, len(pairs), SLICE)]
