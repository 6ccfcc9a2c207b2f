"""What judges answer, asyncio."""

from collections.abc import Iterable

from rewardmesh.client import _batches
from rewardmesh.client._async_core import AsyncCore
from rewardmesh.client._base import Metadata, RankingMethod
from rewardmesh.client.messages import Model
from rewardmesh.client.results import Grades, Preference, Ranking
from rewardmesh.v1.common_pb2 import Sample
from rewardmesh.v1.judge_service_pb2 import Pair, RankGroup


class AsyncJudge(AsyncCore):
    """Preferences, grades and rankings."""

    async def compare(
        self,
        pairs: Iterable[Pair],
        *,
        model: Model = None,
        template: str = "",
        both_orders: bool = True,
        votes: int = 0,
        temperature: float = 0.0,
        seed: int = 0,
        want_rationale: bool = False,
        timeout_s: float | None = None,
        metadata: Metadata = None,
    ) -> list[Preference]:
        """Ask a judge which answer of each pair is better; one result a pair, in order. votes=0 reads probabilities instead of sampling."""
        like = _batches.compare_request(model, template, both_orders, votes, temperature, seed, want_rationale)
        batch = _batches.compare(pairs, self._chunk_items, like)
        return await self._batch(self.judge.Compare, batch, timeout_s, metadata)

    async def grade(
        self,
        samples: Iterable[Sample],
        *,
        model: Model = None,
        rubric: str = "",
        votes: int = 0,
        temperature: float = 0.0,
        seed: int = 0,
        want_rationale: bool = False,
        timeout_s: float | None = None,
        metadata: Metadata = None,
    ) -> list[Grades]:
        """Ask a judge for grades by a rubric it knows, or by each sample's own criteria; one result a sample, in order."""
        like = _batches.grade_request(model, rubric, votes, temperature, seed, want_rationale)
        batch = _batches.grade(samples, self._chunk_items, like)
        return await self._batch(self.judge.Grade, batch, timeout_s, metadata)

    async def rank(
        self,
        groups: Iterable[RankGroup],
        *,
        model: Model = None,
        template: str = "",
        method: RankingMethod = "ALL_PAIRS",
        repeats: int = 1,
        timeout_s: float | None = None,
        metadata: Metadata = None,
    ) -> list[Ranking]:
        """Ask a judge to order the answers of each group (built by `rank_group`); one result a group, in order."""
        like = _batches.rank_request(model, template, method, repeats)
        batch = _batches.rank(groups, self._chunk_items, like)
        return await self._batch(self.judge.Rank, batch, timeout_s, metadata)
