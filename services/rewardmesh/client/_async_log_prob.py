"""What reference policies answer, asyncio."""

from collections.abc import Iterable, Sequence

from rewardmesh.client import _batches
from rewardmesh.client._async_core import AsyncCore
from rewardmesh.client._base import Metadata, Normalisation
from rewardmesh.client._next_logits import AsyncNextLogitsSession
from rewardmesh.client.messages import Model
from rewardmesh.client.results import SuffixScores, TokenScores
from rewardmesh.v1.common_pb2 import ModelRef
from rewardmesh.v1.log_prob_service_pb2 import LogProbWants, TokenPrefix, TokenSequence


class AsyncLogProb(AsyncCore):
    """Log-probabilities of tokens, of suffixes and of what may come next."""

    async def score_tokens(
        self,
        sequences: Iterable[TokenSequence],
        *,
        policies: Sequence[str | ModelRef] = (),
        temperature: float = 0.0,
        want: LogProbWants | None = None,
        timeout_s: float | None = None,
        metadata: Metadata = None,
    ) -> list[TokenScores]:
        """Log-probabilities of completion tokens: for each sequence in order, one result a policy (one result when no policy is named)."""
        like = _batches.score_tokens_request(policies, temperature, want)
        batch = _batches.score_tokens(sequences, self._chunk_items, like)
        return await self._batch(self.log_prob.ScoreTokens, batch, timeout_s, metadata)

    async def score_suffixes(
        self,
        prefixes: Iterable[TokenPrefix],
        suffixes: Iterable[Iterable[int]],
        *,
        policy: Model = None,
        normalise: Normalisation = "SUM",
        temperature: float = 0.0,
        timeout_s: float | None = None,
        metadata: Metadata = None,
    ) -> list[SuffixScores]:
        """How likely each suffix (token ids) is after each prefix (built by `token_prefix`); one result a prefix, in order."""
        like = _batches.score_suffixes_request(suffixes, policy, normalise, temperature)
        batch = _batches.score_suffixes(prefixes, self._chunk_items, like)
        return await self._batch(self.log_prob.ScoreSuffixes, batch, timeout_s, metadata)

    def next_logits(
        self,
        prompt_ids: Iterable[int],
        *,
        policy: Model = None,
        top_k: int = 0,
        timeout_s: float | None = None,
        metadata: Metadata = None,
    ) -> AsyncNextLogitsSession:
        """A session that answers with next-token logits: `latest` after the prompt, `send(ids)` after the tokens chosen since.

        top_k: only the most likely tokens; 0 for the whole vocabulary. timeout_s: for the whole session; None for no limit.
        """
        deadline = None if timeout_s is None else self._deadline(timeout_s)
        sent = self.metadata(metadata)
        return AsyncNextLogitsSession(self.channel, self.log_prob.StreamNextLogits, prompt_ids, policy, top_k, deadline, sent)
