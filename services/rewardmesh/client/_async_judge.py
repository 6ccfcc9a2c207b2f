"""What judges answer, asyncio."""

from collections.abc import Iterable

from rewardmesh.client import _judge_batches
from rewardmesh.client._async_core import AsyncCore
from rewardmesh.client._base import Metadata, RankingAggregation, RankingMethod
from rewardmesh.client.messages import Model
from rewardmesh.client.results import Critique, Grades, Preference, Ranking
from rewardmesh.v1.common_pb2 import Sample
from rewardmesh.v1.judge_service_pb2 import Pair, RankGroup


class AsyncJudge(AsyncCore):
    """Preferences, grades, rankings and critiques."""

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
        like = _judge_batches.compare_request(model, template, both_orders, votes, temperature, seed, want_rationale)
        batch = _judge_batches.compare(pairs, self._chunk_items, like)
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
        like = _judge_batches.grade_request(model, rubric, votes, temperature, seed, want_rationale)
        batch = _judge_batches.grade(samples, self._chunk_items, like)
        return await self._batch(self.judge.Grade, batch, timeout_s, metadata)

    async def rank(
        self,
        groups: Iterable[RankGroup],
        *,
        model: Model = None,
        template: str = "",
        method: RankingMethod = "ALL_PAIRS",
        repeats: int = 1,
        aggregation: RankingAggregation = "MEAN_WINS",
        pairs_per_answer: int = 0,
        votes: int = 0,
        temperature: float = 0.0,
        seed: int = 0,
        timeout_s: float | None = None,
        metadata: Metadata = None,
    ) -> list[Ranking]:
        """Ask a judge to order the answers of each group (built by `rank_group`); one result a group, in order."""
        like = _judge_batches.rank_request(model, template, method, repeats, aggregation, pairs_per_answer, votes, temperature, seed)
        batch = _judge_batches.rank(groups, self._chunk_items, like)
        return await self._batch(self.judge.Rank, batch, timeout_s, metadata)

    async def critique(
        self,
        samples: Iterable[Sample],
        *,
        model: Model = None,
        template: str = "",
        want_revision: bool = False,
        compare_revision: bool = False,
        compare_template: str = "",
        max_points: int = 0,
        temperature: float = 0.0,
        seed: int = 0,
        timeout_s: float | None = None,
        metadata: Metadata = None,
    ) -> list[Critique]:
        """Ask a judge for critiques, and for revisions that may be compared with their originals; one result a sample, in order."""
        like = _judge_batches.critique_request(
            model, template, want_revision, compare_revision, compare_template, max_points, temperature, seed
        )
        batch = _judge_batches.critique(samples, self._chunk_items, like)
        return await self._batch(self.judge.Critique, batch, timeout_s, metadata)
