"""`cascade`: a cheap judge first; what it is unsure about goes on to the next, dearer one.

    default: {rule: cascade, members: [small, large], min_confidence: 0.2, audit: 0.05, drift: {below: 0.8, recover: 0.9}}

An item goes on when the cheap verdict is near a tie, when its two orders disagree, when the cheap judge gave none, or when it has
drifted: a share of the items it is sure of is audited by the next member all the same, and while the two agree too seldom on those,
everything goes on. Cascades by a confidence threshold: Chen, Zaharia and Zou 2023 (FrugalGPT, arXiv 2305.05176). Departures: drift is
watched, spending is paced over a window (`budget`), audits and then the least sure items of a call are paid for first, and the audit is
drawn by content, so that the same item is always treated the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from rewardmesh.panel.absences import abstained
from rewardmesh.panel.asking import Ask
from rewardmesh.panel.metrics import AUDIT_AGREEMENT, ESCALATED, KEPT
from rewardmesh.panel.pacing import Budget, Drift, DriftWatch, Pacing
from rewardmesh.panel.rules.base import Answerer, MembersRule, Method
from rewardmesh.panel.spec import MemberSpec
from rewardmesh.panel.voting import reaches, said, side
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import judge_service_pb2 as api

Send = Callable[[str, Sequence[Any]], Awaitable[list[Any]]]


class Cascade(MembersRule):
    """Cheap first; the unsure goes on."""

    methods: ClassVar[tuple[Method, ...]] = ("compare", "rank", "grade")
    rule: Literal["cascade"]
    min_confidence: float = Field(0.2, ge=0, le=0.5, description="a verdict nearer than this to 0.5 goes on; 0: only the other reasons do")
    min_agreement: float = Field(0.0, ge=0, le=1, description="agreement of the two orders (grade: of votes) below which an item goes on")
    audit: float = Field(0.0, ge=0, le=1, description="share of the confident items that go on too, to measure how often the next agrees")
    drift: Drift | None = Field(None, description="when agreement on audited items is too low, everything goes on until it recovers")
    budget: Budget | None = Field(None, description="share of the items that may go on")
    over_budget: Literal["keep", "abstain"] = Field("keep", description="what becomes of an item that ought to go on and may not")

    @model_validator(mode="after")
    def _needs_audit(self) -> Cascade:
        if self.drift is not None and not self.audit:
            raise ValueError("drift: needs audited items; set audit to their share, 0.05 for one in twenty")
        return self

    def objection(self, method: Method, seats: Mapping[str, list[str]]) -> str | None:
        """A cascade of one."""
        return None if len(seats["members"]) > 1 else "members: a cascade needs at least 2, the cheapest first"

    def answerer(self, panel: str, specs: Mapping[str, MemberSpec]) -> Answerer:
        """See the base."""
        return CascadeAnswerer(self, panel, self.seats(list(specs))["members"])


@dataclass
class _Item:
    """One item on its way down the cascade."""

    content: Any
    verdict: Any = None
    confidence: float = 0.0
    reason: str | None = None
    audited: Any = None
    """The confident verdict of an item that only goes on to be audited."""
    said: list[str] = field(default_factory=list)
    lost: dict[str, pb.Absence] = field(default_factory=dict)


class CascadeAnswerer(Answerer):
    """Remembers, for each step of the cascade, how its two members agreed and what was spent."""

    def __init__(self, rule: Cascade, panel: str, members: Sequence[str]) -> None:
        self._rule = rule
        self._panel = panel
        self._members = list(members)
        self._pacing = Pacing(rule.budget) if rule.budget else None
        self.watches = [DriftWatch(rule.drift) for _ in self._members[1:]]

    def suffices(self, up: Collection[str]) -> bool:
        return any(member in up for member in self._members)

    async def compare(self, ask: Ask, pairs: Sequence[api.Pair]) -> list[api.Preference | pb.Absence]:
        return await self._descend("compare", pairs, ask.compare)

    async def grade(self, ask: Ask, samples: Sequence[pb.Sample]) -> list[api.Grades | pb.Absence]:
        return await self._descend("grade", samples, ask.grade)

    async def _descend(self, method: Method, contents: Sequence[Any], send: Send) -> list[Any]:
        items = [_Item(content) for content in contents]
        if self._pacing:
            self._pacing.saw(len(items))
        left = items
        for step, member in enumerate(self._members):
            before = [(item, item.verdict) for item in left]
            for item, answer in zip(left, await send(member, [item.content for item in left]), strict=True):
                self._hear(item, member, answer)
            self._compare_audits(step, before)
            if step + 1 < len(self._members):
                left = self._escalated(method, step, left)
                if not left:
                    break
        KEPT.labels(self._panel, method).inc(len(items) - len([item for item in items if item.reason]))
        return [self._outcome(item) for item in items]

    def _hear(self, item: _Item, member: str, answer: Any) -> None:
        if isinstance(answer, pb.Absence):
            item.lost[member] = answer
            return
        item.verdict = answer
        item.confidence = abs(value_of(answer) - 0.5)
        item.said += said(member, answer) if isinstance(answer, api.Preference) else [f"{member}: {answer.total:.4f}"]

    def _escalated(self, method: Method, step: int, items: Sequence[_Item]) -> list[_Item]:
        """Those that go on: audits are paid for first, or drift would go unseen, then the least confident. Others keep what they have."""
        drifted = self.watches[step].drifted
        member = self._members[step]
        for item in items:
            item.reason = self._why(item, member, drifted)
        chosen = []
        for item in sorted((item for item in items if item.reason), key=lambda item: (item.reason != "audit", item.confidence)):
            if self._pacing is None or self._pacing.spend():
                ESCALATED.labels(self._panel, method, member, item.reason).inc()
                item.audited = item.verdict if item.reason == "audit" else None
                chosen.append(item)
                continue
            ESCALATED.labels(self._panel, method, member, "over_budget").inc()
            item.said.append(f"{member}: not sent on ({item.reason}), the budget is spent")
            if item.reason != "audit" and self._rule.over_budget == "abstain":
                item.verdict = None
            item.reason = None
        kept = {id(item) for item in chosen}
        return [item for item in items if id(item) in kept]

    def _why(self, item: _Item, member: str, drifted: bool) -> str | None:
        if member in item.lost:
            # An audit is no doubt: when the auditor does not answer, the confident verdict stands.
            return "absent" if item.audited is None else None
        if not reaches(item.confidence, self._rule.min_confidence):
            return "unsure"
        if not reaches(concord_of(item.verdict), self._rule.min_agreement):
            return "orders"
        if drifted:
            return "drift"
        return "audit" if drawn(item.content, self._rule.audit) else None

    def _compare_audits(self, step: int, before: Sequence[tuple[_Item, Any]]) -> None:
        """Note how the member agreed with the one before it on what that one was sure of."""
        if not step:
            return
        watch, judged = self.watches[step - 1], self._members[step - 1]
        for item, cheap in before:
            if item.reason in ("audit", "drift") and self._members[step] not in item.lost:
                watch.note(credit(value_of(cheap), value_of(item.verdict)))
        if watch.agreement is not None:
            AUDIT_AGREEMENT.labels(self._panel, judged).set(watch.agreement)

    def _outcome(self, item: _Item) -> Any:
        if self._members[-1] in item.lost:
            # An audit is no doubt: when the auditor does not answer, the confident verdict stands.
            item.verdict = item.audited
        if item.verdict is None:
            why = "no member's verdict is sure enough" if item.lost else "the budget is spent"
            return abstained(f"{why}: {', '.join(item.said)}" if item.said else why, item.lost)
        if isinstance(item.verdict, api.Preference):
            item.verdict.rationales[:] = item.said
        return item.verdict


def value_of(verdict: Any) -> float:
    """The number in [0, 1] of a preference or of grades."""
    return float(verdict.p_a if isinstance(verdict, api.Preference) else verdict.total)


def concord_of(verdict: Any) -> float:
    """Agreement of a verdict with itself: of its two orders, or of the votes of grades (1 where there are none)."""
    if isinstance(verdict, api.Preference):
        return float(verdict.agreement)
    return float(verdict.vote_agreement) if verdict.HasField("vote_agreement") else 1.0


def credit(cheap: float, dear: float) -> float:
    """1 when both are on the same side of 0.5 (or both tied), 0 when on two, a half when one of them is a tie."""
    return 1.0 if side(cheap) == side(dear) else 0.5 + side(cheap) * side(dear) / 2


def drawn(content: Any, share: float) -> bool:
    """Whether an item belongs to the audited share: decided by its content, whatever its id."""
    if not share:
        return False
    bare = type(content)()
    bare.CopyFrom(content)
    bare.id = ""
    digest = hashlib.sha256(bare.SerializeToString(deterministic=True)).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64
