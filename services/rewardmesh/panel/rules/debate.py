"""`debate`: two members argue, each against the other's answer, and a third decides with their arguments before it.

    compare: {rule: debate, advocates: [left, right], judge: referee, rounds: 2, template: argue}

An argument is a member's Critique of the answer it is to bring down; from the second round on it reads what was said against its own.
The judge reads the arguments as notes: its template has to show {{ notes }}. After debate as a means of oversight: Irving, Christiano and
Amodei 2018 (arXiv 1805.00899). Departure: the advocates change sides for the second order of presentation, so that a better debater
cancels as a position bias does.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from pydantic import Field

from rewardmesh.panel.absences import abstained
from rewardmesh.panel.asking import Ask, at_once, with_notes
from rewardmesh.panel.ordered_notes import Notes, compare_with_notes
from rewardmesh.panel.pairwise import both_orders, flipped
from rewardmesh.panel.rules.base import Answerer, Method, Rule
from rewardmesh.panel.spec import MemberSpec
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import judge_service_pb2 as api


class Debate(Rule):
    """Two argue, one decides."""

    methods: ClassVar[tuple[Method, ...]] = ("compare", "rank")
    rule: Literal["debate"]
    advocates: tuple[str, str] = Field(description="the two who argue; the same member twice argues with itself")
    judge: str = Field(description="the one who decides; its template shows {{ notes }}")
    rounds: int = Field(1, ge=1, le=8, description="times that each side speaks")
    template: str = Field("", description="critique template of the advocates; empty: each member's own")

    def seats(self, everyone: Sequence[str]) -> dict[str, list[str]]:
        """See the base."""
        return {"advocates": list(self.advocates), "judge": [self.judge]}

    def answerer(self, panel: str, specs: Mapping[str, MemberSpec]) -> Answerer:
        """See the base."""
        return _DebateAnswerer(self)


@dataclass
class _Debate:
    """One pair in one order, while it is debated. The first advocate defends the answer that is shown first."""

    pair: api.Pair
    transcript: list[str] = field(default_factory=list)
    last: dict[str, str] = field(default_factory=dict)
    """What was last said against the "first" and against the "second" answer."""
    lost: dict[str, pb.Absence] = field(default_factory=dict)

    @property
    def notes(self) -> Notes:
        """What the judge reads."""
        return abstained("a side of the debate did not speak", self.lost) if self.lost else self.transcript

    def attack(self, identifier: str, target: str) -> pb.Sample:
        """The answer to criticise, for an advocate of the other one, who knows what was last said against that."""
        pair, other = self.pair, "second" if target == "first" else "first"
        sample = pb.Sample(id=identifier, prompt=pair.prompt, references=pair.references)
        sample.completion.CopyFrom(pair.a if target == "first" else pair.b)
        if pair.HasField("context"):
            sample.context.CopyFrom(pair.context)
        heard = [f"The other side says of the answer you defend: {self.last[other]}"] if other in self.last else []
        return with_notes(sample, heard)

    def hear(self, title: str, advocate: str, target: str, argument: api.Critique | pb.Absence) -> None:
        """Put down what an advocate said against an answer."""
        if isinstance(argument, pb.Absence):
            self.lost[f"{advocate} against the {target} answer"] = argument
            return
        self.transcript.append(f"{title}, against the {target} answer: {argument.text}")
        self.last[target] = argument.text


class _DebateAnswerer(Answerer):
    def __init__(self, rule: Debate) -> None:
        self._rule = rule

    def suffices(self, up: Collection[str]) -> bool:
        return {*self._rule.advocates, self._rule.judge} <= set(up)

    async def compare(self, ask: Ask, pairs: Sequence[api.Pair]) -> list[api.Preference | pb.Absence]:
        given = [_Debate(pair) for pair in pairs]
        swapped = [_Debate(flipped(pair, pair.id)) for pair in pairs] if both_orders(ask.options) else []
        for number in range(self._rule.rounds):
            await self._speak(ask, [debate for debate in (*given, *swapped) if not debate.lost], f"Round {number + 1}")
        notes = [debate.notes for debate in given]
        return await compare_with_notes(ask, self._rule.judge, pairs, notes, [debate.notes for debate in swapped] or notes)

    async def _speak(self, ask: Ask, debates: Sequence[_Debate], title: str) -> None:
        """One round, both sides at the same time."""
        charged = ask.under({f"{index}": debate.pair.id for index, debate in enumerate(debates)})
        first, second = self._rule.advocates
        attackers = {"second": first, "first": second}

        async def against(target: str) -> list[api.Critique | pb.Absence]:
            attacked = [debate.attack(f"{index}", target) for index, debate in enumerate(debates)]
            return await charged.critique(attackers[target], attacked, template=self._rule.template)

        said = await at_once(attackers, against)
        for target, arguments in said.items():
            for debate, argument in zip(debates, arguments, strict=True):
                debate.hear(title, attackers[target], target, argument)
