"""Token rewards and span rewards of the mesh's answers, on the completion tokens of a rollout.

Services speak of code points of the answer's text, or of its own token ids; the answer of a continued completion has a given beginning,
whose share is dropped: nobody chose those tokens. What several signals say adds up.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from rewardmesh.client import Evaluation
from rewardmesh.trainer.credit.spans import Decode, character_values_to_tokens, token_character_ends, tokens_of_characters
from rewardmesh.trainer.samples import FloatArray, IntArray, RewardSpan, Rollout
from rewardmesh.v1.common_pb2 import TOKEN_ALIGNMENT_CHARACTERS, TOKEN_ALIGNMENT_TOKEN_IDS, Reward, Span, TokenValues

Dense = tuple[FloatArray | None, tuple[RewardSpan, ...] | None]


def dense_scores(evaluations: Sequence[Evaluation], rollouts: Sequence[Rollout], decode: Decode) -> list[Dense]:
    """(token rewards float32[m] or None, spans or None) of each rollout, m its completion tokens.

    A reward without spans is silent, unless the same signal has spans for another rollout of the call: then it found nothing to say.
    A span without a value is a remark, and no reward. ValueError where token values do not fit the answer they are of.
    """
    giving = {name for evaluation in evaluations for name, spans in _spans(evaluation) if any(_valued(spans))}
    return [_dense(evaluation, rollout, decode, giving) for evaluation, rollout in zip(evaluations, rollouts, strict=True)]


def _dense(evaluation: Evaluation, rollout: Rollout, decode: Decode, giving: set[str]) -> Dense:
    answer = _Answer(rollout, decode)
    tokens: FloatArray | None = None
    spans: list[RewardSpan] | None = None
    for _, reward in _rewards(evaluation):
        if reward.HasField("tokens"):
            given = answer.token_rewards(reward.tokens)
            tokens = given if tokens is None else tokens + given
    for name, remarks in _spans(evaluation):
        if name in giving:
            found = [answer.span(start, end, value) for start, end, value in _valued(remarks)]
            spans = [*(spans or []), *(span for span in found if span)]
    return tokens, None if spans is None else tuple(spans)


def _rewards(evaluation: Evaluation) -> Iterator[tuple[str, Reward]]:
    """The composed reward where it has parts, else the rewards of the signals."""
    composed = evaluation.message.outcome.reward
    if composed.HasField("tokens") or composed.spans:
        yield "", composed
        return
    for name, component in evaluation.components.items():
        if component.message.HasField("reward") and component.message.reward.HasField("reward"):
            yield name, component.message.reward.reward


def _spans(evaluation: Evaluation) -> Iterator[tuple[str, Sequence[Span]]]:
    """The spans of rewards, critiques and verdicts; of a critique also when its signal has no value."""
    for name, reward in _rewards(evaluation):
        yield name, reward.spans
    for name, component in evaluation.components.items():
        match component.message.WhichOneof("answer"):
            case "critique":
                yield name, component.message.critique.critique.spans
            case "verdict":
                yield name, [component.message.verdict.verdict.location.span]


def _valued(spans: Sequence[Span]) -> list[tuple[int, int, float]]:
    return [(span.start, span.end, span.value) for span in spans if span.HasField("value")]


class _Answer:
    """The answer that was scored: a rollout's given beginning, then its completion."""

    def __init__(self, rollout: Rollout, decode: Decode) -> None:
        self._rollout, self._decode = rollout, decode
        self._cut = rollout.prefix_tokens
        self._known_ends: npt.NDArray[np.int64] | None = None

    @property
    def _ids(self) -> IntArray:
        beginning = self._rollout.prompt_ids[self._rollout.prompt_ids.size - self._cut :]
        return np.concatenate([beginning, self._rollout.completion_ids])

    @property
    def _ends(self) -> npt.NDArray[np.int64]:
        if self._known_ends is None:
            self._known_ends = token_character_ends(self._decode, self._ids)
        return self._known_ends

    def token_rewards(self, given: TokenValues) -> FloatArray:
        """float32[m]."""
        values = np.frombuffer(given.values.data, "<f4").astype(np.float32)
        if given.alignment == TOKEN_ALIGNMENT_TOKEN_IDS:
            if values.size != len(self._ids):
                raise ValueError(f"token values of {self._rollout.id} are {values.size} for {len(self._ids)} tokens")
            return values[self._cut :]
        if given.alignment != TOKEN_ALIGNMENT_CHARACTERS:
            raise ValueError(f"token values of {self._rollout.id} have no alignment")
        offsets = np.frombuffer(given.character_offsets.data, "<i4").astype(np.int64)
        if offsets.size != 2 * values.size:
            raise ValueError(f"token values of {self._rollout.id} are {values.size} with {offsets.size} character offsets")
        return character_values_to_tokens(values, offsets.reshape(-1, 2), self._ends)[self._cut :]

    def span(self, start: int, end: int, value: float) -> RewardSpan | None:
        """The tokens of the completion that write code points start:end; None where none does."""
        found = tokens_of_characters(start, end, self._ends)
        if found is None or found[1] <= self._cut:
            return None
        return RewardSpan(max(found[0] - self._cut, 0), found[1] - self._cut, value)
