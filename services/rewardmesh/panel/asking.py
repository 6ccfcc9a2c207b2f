"""One call of a panel while it is answered: whom it may ask, with what, until when, in whose name, and what that has cost.

Rules ask members through an `Ask`. Options of the caller (votes, seed, orders, reasons, template) go on to the members; a member's own
settings stand before the caller's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from rewardmesh.panel.ledger import Identity, Ledger
from rewardmesh.panel.members import Found, Member
from rewardmesh.serving.validation import absence
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import judge_service_pb2 as api

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)
Options = api.CompareRequest | api.RankRequest | api.GradeRequest | api.CritiqueRequest

CHUNK_ITEMS = 256
_METHODS = {api.CompareRequest: "Compare", api.RankRequest: "Rank", api.GradeRequest: "Grade", api.CritiqueRequest: "Critique"}


@dataclass(frozen=True)
class Ask:
    """One call.

    Attributes:
        options: the caller's request without its items and model, its template empty where the caller named the panel itself.
        deadline: on the event loop's clock, seconds.
        asked: method and template of the call, by which the panel's fingerprint is kept.
        owners: id of an item that a rule made -> id of the caller's item that is charged for it.
    """

    members: Mapping[str, Member]
    options: Options
    deadline: float
    metadata: tuple[tuple[str, str], ...]
    identity: Identity
    ledger: Ledger
    asked: str
    owners: Mapping[str, str] = field(default_factory=dict)

    def under(self, owners: Mapping[str, str]) -> Ask:
        """The same call for items that a rule made of others: made id -> id that it stands for."""
        return replace(self, owners={made: self.owners.get(owner, owner) for made, owner in owners.items()})

    @property
    def aggregation(self) -> api.RankAggregation.ValueType:
        """How the caller wants rankings scored. Members are not told: what is scored is what their verdicts are made into."""
        return self.options.aggregation if isinstance(self.options, api.RankRequest) else api.RANK_AGGREGATION_UNSPECIFIED

    async def compare(self, member: str, pairs: Sequence[api.Pair], *, as_given: bool = False) -> list[api.Preference | pb.Absence]:
        """One member's preferences, in order; `as_given` shows a first and then b only, whatever the caller asks."""
        request = self._like(api.CompareRequest)
        request.template = self._spec(member).template or request.template
        if as_given:
            request.orders = api.COMPARE_ORDERS_AS_GIVEN
        return await self._send(member, request, "pairs", pairs)

    async def rank(self, member: str, groups: Sequence[api.RankGroup], *, seed: int | None = None) -> list[api.Ranking | pb.Absence]:
        """One member's rankings, in order."""
        request = self._like(api.RankRequest)
        request.template = self._spec(member).template or request.template
        request.ClearField("aggregation")
        request.seed = request.seed if seed is None else seed
        found: list[api.Ranking | pb.Absence] = await self._send(member, request, "groups", groups)
        return [_of_size(each, len(group.completions)) for each, group in zip(found, groups, strict=True)]

    async def grade(self, member: str, samples: Sequence[pb.Sample], *, rubric: str = "") -> list[api.Grades | pb.Absence]:
        """One member's grades, in order; by the rubric given here, else the member's, else the caller's."""
        request = self._like(api.GradeRequest)
        request.rubric = rubric or self._spec(member).rubric or request.rubric
        return await self._send(member, request, "samples", samples)

    async def critique(self, member: str, samples: Sequence[pb.Sample], *, template: str = "") -> list[api.Critique | pb.Absence]:
        """One member's critiques, in order; by the template given here, else the member's, else the caller's."""
        request = self._like(api.CritiqueRequest)
        request.template = template or self._spec(member).critique_template or request.template
        return await self._send(member, request, "samples", samples)

    def _spec(self, member: str) -> Any:
        return self.members[member].spec

    def _like(self, kind: type[Any]) -> Any:
        """A request with the caller's options; of another method than the caller's, those that both have by one meaning."""
        request = kind()
        if isinstance(self.options, kind):
            request.CopyFrom(self.options)
            return request
        request.seed = self.options.seed
        if kind in (api.CompareRequest, api.RankRequest) and isinstance(self.options, api.CompareRequest | api.RankRequest):
            request.template = self.options.template
        if kind is not api.CritiqueRequest and not isinstance(self.options, api.CritiqueRequest):
            request.votes, request.temperature = self.options.votes, self.options.temperature
        return request

    def _noted(self, member: str, items: Sequence[T]) -> Sequence[T]:
        notes = self._spec(member).notes
        return [with_notes(item, notes) for item in items] if notes else items

    async def _send(self, member: str, request: Any, field: str, items: Sequence[Any]) -> list[Any]:
        """Ask in chunks at the same time, so that a large call is spread over a member's replicas."""
        one, method = self.members[member], _METHODS[type(request)]
        if one.spec.votes is not None and not isinstance(request, api.CritiqueRequest):
            request.votes = one.spec.votes
        noted = self._noted(member, items)
        chunks = {start: noted[start : start + CHUNK_ITEMS] for start in range(0, len(noted), CHUNK_ITEMS)}

        async def ask(start: int) -> list[Found]:
            part = type(request)()
            part.CopyFrom(request)
            getattr(part, field).extend(chunks[start])
            left_s = self.deadline - asyncio.get_running_loop().time()
            return await one.ask(method, part, [item.id for item in chunks[start]], left_s, self.metadata)

        answers = await at_once(chunks, ask)
        found = [answer for part in answers.values() for answer in part]
        for item, answer in zip(items, found, strict=True):
            self.ledger.add(self.owners.get(item.id, item.id), answer.provenance)
            if answer.provenance.HasField("model"):
                self.identity.note(self.asked, f"{member}/{method}", answer.provenance.model)
        return [answer.verdict for answer in found]


async def at_once(names: Iterable[K], call: Callable[[K], Awaitable[list[T]]]) -> dict[K, list[T]]:
    """Call for every name at the same time; when one fails as a whole, the others are cancelled and its failure is raised."""
    listed = list(names)
    tasks = {name: asyncio.ensure_future(call(name)) for name in listed}
    try:
        await asyncio.gather(*tasks.values())
    finally:
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
    return {name: task.result() for name, task in tasks.items()}


def by_item(answers: Mapping[str, Sequence[T]], count: int) -> list[dict[str, T]]:
    """From a list a member to a mapping of members for each of `count` items."""
    return [{name: found[index] for name, found in answers.items()} for index in range(count)]


def parted(found: Mapping[str, T | pb.Absence]) -> tuple[dict[str, T], dict[str, pb.Absence]]:
    """Verdicts and absences, by member."""
    lost = {name: each for name, each in found.items() if isinstance(each, pb.Absence)}
    return {name: each for name, each in found.items() if not isinstance(each, pb.Absence)}, lost


def with_notes(item: T, notes: Iterable[str]) -> T:
    """A copy of a pair, group or sample whose context has these notes after its own."""
    changed: Any = type(item)()
    changed.CopyFrom(item)
    changed.context.notes.extend(notes)
    return changed  # type: ignore[no-any-return]


def _of_size(found: api.Ranking | pb.Absence, size: int) -> api.Ranking | pb.Absence:
    if isinstance(found, pb.Absence) or len(found.scores) == size:
        return found
    return absence(pb.ABSENCE_REASON_INFRASTRUCTURE, f"answered a ranking of {len(found.scores)} for {size} answers")
