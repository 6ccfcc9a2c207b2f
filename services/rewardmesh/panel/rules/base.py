"""What a rule is: a part of the panel's file, and the one who answers the panel's calls by it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar, Literal

from pydantic import Field

from rewardmesh.panel.asking import Ask
from rewardmesh.panel.pairwise import rank_by_pairs
from rewardmesh.panel.spec import MemberSpec, Strict
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import judge_service_pb2 as api

Method = Literal["compare", "rank", "grade", "critique"]
METHODS: tuple[Method, ...] = ("compare", "rank", "grade", "critique")


class Rule(Strict, ABC):
    """A rule as the file states it; a subclass sets `rule` to its name."""

    methods: ClassVar[tuple[Method, ...]]
    rule: str

    @abstractmethod
    def seats(self, everyone: Sequence[str]) -> dict[str, list[str]]:
        """Field of the rule -> members in it; `everyone` are those of the panel, in the file's order."""

    def objection(self, method: Method, seats: Mapping[str, list[str]]) -> str | None:
        """Why the rule cannot answer a method that it is given for: `field: what is wrong and what would help`."""
        return None

    @abstractmethod
    def answerer(self, panel: str, specs: Mapping[str, MemberSpec]) -> Answerer:
        """The one who answers by it; `specs` are all members of the panel."""


class MembersRule(Rule):
    """A rule in which some or all members have the same part."""

    members: tuple[str, ...] = Field((), description="members that take part, in order; empty: all, in the file's order")

    def seats(self, everyone: Sequence[str]) -> dict[str, list[str]]:
        """See the base."""
        return {"members": list(self.members or everyone)}


class Answerer(ABC):
    """Answers calls by a rule; one outcome an item, in order. Only the methods that its rule has are called."""

    async def compare(self, ask: Ask, pairs: Sequence[api.Pair]) -> list[api.Preference | pb.Absence]:
        """Preferences."""
        raise NotImplementedError

    async def rank(self, ask: Ask, groups: Sequence[api.RankGroup]) -> list[api.Ranking | pb.Absence]:
        """Rankings; by Compare of all pairs unless the rule ranks otherwise."""
        return await rank_by_pairs(self.compare, ask, groups)

    async def grade(self, ask: Ask, samples: Sequence[pb.Sample]) -> list[api.Grades | pb.Absence]:
        """Grades."""
        raise NotImplementedError

    async def critique(self, ask: Ask, samples: Sequence[pb.Sample]) -> list[api.Critique | pb.Absence]:
        """Critiques."""
        raise NotImplementedError

    @property
    def ranks_itself(self) -> bool:
        """Whether members are asked to rank, with the caller's method and repeats; else every pair is compared."""
        return type(self).rank is not Answerer.rank

    @abstractmethod
    def suffices(self, up: Collection[str]) -> bool:
        """Whether it can give verdicts while these members can be reached."""
