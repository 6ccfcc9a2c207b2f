"""Asks the judge and keeps account: readings of pairs, absences by reason, and that one and the same judge answered all along."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import grpc

from rewardmesh.audit.errors import AuditError
from rewardmesh.audit.judge.data import AuditGroup, AuditPair
from rewardmesh.audit.judge.settings import JudgeSettings
from rewardmesh.audit.statistics import logit
from rewardmesh.client import Absence, AsyncClient, CallFailed, Ranking, pair, rank_group
from rewardmesh.v1.common_pb2 import Context, ModelRef, Provenance

SLICE = 64
"""Pairs a call: small enough that the progress moves and an interruption loses little."""

OnProgress = Callable[[str, int, int], None]
"""Called with (probe, items answered, items asked for so far)."""


@dataclass(frozen=True)
class Reading:
    """A verdict on a pair: probabilities that a is better, in [0, 1].

    Attributes:
        p: mean over the orders shown.
        as_given, swapped: from the order (a, b) and (b, a); swapped is None where only one was shown.
        votes: sampled votes an order; 0 for label probabilities.
    """

    p: float
    as_given: float
    swapped: float | None
    votes: int

    @property
    def strength(self) -> float:
        """Log-odds that a is better, mean over the orders: an additive position bias cancels exactly."""
        both = [self.as_given] if self.swapped is None else [self.as_given, self.swapped]
        return float(logit(both, self.votes).mean())


class Asker:
    """Questions of one probe to one judge.

    Attributes:
        asked: items put to the judge.
        absent: those that got no verdict, by reason.
        details: the first absence's words for each reason.
        judge: model, version and fingerprint that answered; None before any verdict.
    """

    def __init__(self, client: AsyncClient, settings: JudgeSettings, probe: str, judge: ModelRef | None, on_progress: OnProgress) -> None:
        self._client = client
        self._settings = settings
        self._probe = probe
        self._on_progress = on_progress
        self._answered = 0
        self.asked = 0
        self.absent: Counter[str] = Counter()
        self.details: dict[str, str] = {}
        self.judge = judge

    async def compare(
        self,
        pairs: Sequence[AuditPair],
        *,
        both_orders: bool = True,
        template: str | None = None,
        criterion: str = "",
        seed: int | None = None,
    ) -> list[Reading | None]:
        """One reading a pair, in order; None where there was no verdict, which is counted.

        Args:
            template: instead of the settings' one.
            criterion: shown to the judge as the only criterion.
            seed: of votes; None for the settings' one.

        Raises:
            AuditError: another judge answered than before.
            CallFailed: the whole request is wrong.
        """
        settings = self._settings
        self.asked += len(pairs)
        readings: list[Reading | None] = []
        context = Context()
        if criterion:
            context.criteria.add(id="wanted", text=criterion)
        for part in _slices(pairs):
            sent = [
                pair(
                    str(number),
                    each.prompt,
                    each.a.text,
                    each.b.text,
                    references=each.references if settings.with_references else (),
                    context=context if criterion else None,
                )
                for number, each in enumerate(part)
            ]
            found = await self._client.compare(
                sent,
                model=settings.model,
                template=settings.template if template is None else template,
                both_orders=both_orders,
                votes=settings.votes,
                temperature=settings.temperature,
                seed=settings.seed if seed is None else seed,
            )
            for each in found:
                if each.absence:
                    self._lost(each.absence)
                    readings.append(None)
                    continue
                self._came_from(each.message.provenance, template or criterion)
                verdict = each.message.preference
                swapped = verdict.p_a_swapped if verdict.HasField("p_a_swapped") else None
                orders = 1 if swapped is None else 2
                readings.append(Reading(verdict.p_a, verdict.p_a_as_given, swapped, verdict.votes // orders))
            self._answered += len(part)
            self._on_progress(self._probe, self._answered, self.asked)
        return readings

    async def rank(self, groups: Sequence[AuditGroup], repeats: int) -> list[Ranking] | str:
        """Rankings of the groups that have one, the others counted; or why the service does not rank so."""
        settings = self._settings
        sent = [
            rank_group(
                str(number),
                group.prompt,
                [answer.text for answer in group.answers],
                references=group.references if settings.with_references else (),
            )
            for number, group in enumerate(groups)
        ]
        try:
            found = await self._client.rank(sent, model=settings.model, template=settings.template, repeats=repeats)
        except CallFailed as failure:
            if failure.code not in (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.INVALID_ARGUMENT):
                raise
            return str(failure)
        self.asked += len(groups)
        self._answered += len(groups)
        for ranking in found:
            if ranking.absence:
                self._lost(ranking.absence)
            else:
                # A panel ranks by a rule of its own, and so has another fingerprint for it.
                self._came_from(ranking.message.provenance, "rank")
        self._on_progress(self._probe, self._answered, self.asked)
        return [ranking for ranking in found if ranking.absence is None]

    def _lost(self, absence: Absence) -> None:
        self.absent[str(absence.reason)] += 1
        self.details.setdefault(str(absence.reason), absence.detail)

    def _came_from(self, provenance: Provenance, other: str) -> None:
        """The judge that answered; for another template or method (`other`) only its model and version have to be the same."""
        model = provenance.model
        if self.judge is None:
            if not other:
                self.judge = ModelRef(name=model.name, version=model.version, fingerprint=model.fingerprint)
            return
        same = (model.name, model.version) == (self.judge.name, self.judge.version)
        if not same or (not other and model.fingerprint != self.judge.fingerprint):
            raise AuditError(
                f"the judge changed during the audit, from {describe(self.judge)} to {describe(model)}: "
                "name the version to audit, or keep others from activating one meanwhile"
            )


def describe(model: ModelRef) -> str:
    """A model as people name it."""
    return f"{model.name or '(unnamed)'} version {model.version} ({model.fingerprint or 'no fingerprint'})"


def _slices(pairs: Sequence[AuditPair]) -> list[tuple[AuditPair, ...]]:
    return [tuple(pairs[start : start + SLICE]) for start in range(0, len(pairs), SLICE)]
