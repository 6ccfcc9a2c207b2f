"""Token rewards: what the head says after every token of the answer, as the amounts by which each token changes it.

The head is trained to be read at the last token; read earlier it says what the model thinks of the answer so far. A token's reward is
its reading less the one before (Li et al. 2024, RED, arXiv 2411.08302, equation 5), the first one's the reading itself: the running sum
is the score of the answer so far, and the sum is the score. Departure: RED takes the reading of the bare prompt off the first.

The rewards belong to code points of the answer's text, because the policy's tokens are others than the model's; what the chat template
writes after the answer belongs to its end. Raw samples of token ids have a reward for each of their ids.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from rewardmesh.engine.cached import model_keys
from rewardmesh.engine.interface import ServedModel
from rewardmesh.engine.packing import TokenIds
from rewardmesh.engine.text import encode_with_offsets, render
from rewardmesh.reward.preparing import Prepared
from rewardmesh.serving.raw import TEMPLATE_TAG, is_raw
from rewardmesh.serving.validation import absence
from rewardmesh.v1 import common_pb2 as pb

Offsets = npt.NDArray[np.int32]
_MARK = "\ue000answer\ue000"
"""Stands for an answer to find where the template puts it; private code points, which no template writes."""


@dataclass(frozen=True)
class TokenLane:
    """Items of which the readings of all answer tokens are wanted; their payload is (ids, place of the first answer token)."""

    model: ServedModel


@dataclass(frozen=True)
class AnswerTokens:
    """Which of an input's tokens are the answer's.

    Attributes:
        first: place of the first one; all that follow are the answer's, those of the template's end too.
        offsets: int32 [m, 2], code points of the answer's text that each writes; None for a sample that is its own token ids.
    """

    first: int
    offsets: Offsets | None


def compute(lane: Hashable, payloads: Sequence[Any]) -> list[tuple[list[float], int]]:
    """Scores, or in a `TokenLane` the readings of every answer token, one after the other; runs on the engine's thread."""
    if isinstance(lane, TokenLane):
        pairs = cast(Sequence[tuple[TokenIds, int]], payloads)
        return [([value for row in rows for value in row], computed) for rows, computed in lane.model.token_scores(pairs)]
    return cast(ServedModel, lane).scores(payloads)


def with_tokens(
    model: ServedModel, service: str, samples: Sequence[pb.Sample], prepared: Sequence[Prepared]
) -> list[tuple[Prepared, Offsets | None]]:
    """The same samples with work that reads every answer token, and the code points of those tokens.

    A sample whose answer cannot be found in what the model reads has a problem: NOT_APPLICABLE.
    """
    fit = [at for at, ready in enumerate(prepared) if ready.problem is None]
    answers = {at: _answer_tokens(model.tokenizer, samples[at]) for at in fit}
    keys, lane = model_keys(service, model, "token_scores"), TokenLane(model)
    found: list[tuple[Prepared, Offsets | None]] = []
    for at, ready in enumerate(prepared):
        answer = answers.get(at)
        if answer is None or isinstance(answer, pb.Absence):
            found.append((ready if answer is None else replace(ready, problem=answer), None))
            continue
        ids = ready.work.payload
        # A prompt that was cut moves the answer's tokens; they themselves are never cut.
        first = answer.first if answer.offsets is None else len(ids) - len(answer.offsets)
        work = replace(cast(Any, ready.work), payload=(ids, first), lane=lane, key=keys.key(ids, [first]))
        found.append((replace(ready, work=work), answer.offsets))
    return found


def token_values(readings: Sequence[Sequence[float]], weights: Sequence[float], offsets: Offsets | None) -> pb.TokenValues | None:
    """The rewards of an answer's m tokens; None when they are no finite float32.

    Args:
        readings: outputs of the head after each token, [m, outputs].
        weights: of the outputs in the value.
        offsets: see `AnswerTokens`.
    """
    values = np.asarray(readings, np.float64) @ np.asarray(weights, np.float64)
    rewards = np.diff(values, prepend=0.0)
    if not all(abs(value) < 3.4e38 for value in rewards.tolist()) or math.isnan(float(rewards.sum())):
        return None
    message = pb.TokenValues(alignment=pb.TOKEN_ALIGNMENT_TOKEN_IDS)
    message.values.CopyFrom(pb.Float32Array(data=rewards.astype("<f4").tobytes(), length=len(rewards)))
    if offsets is not None:
        message.alignment = pb.TOKEN_ALIGNMENT_CHARACTERS
        message.character_offsets.CopyFrom(pb.Int32Array(data=offsets.astype("<i4").tobytes(), length=offsets.size))
    return message


def _answer_tokens(tokenizer: Any, sample: pb.Sample) -> AnswerTokens | pb.Absence:
    if is_raw(sample):
        if sample.completion.HasField("token_ids"):
            return AnswerTokens(0, None)
        head = "".join(message.content for message in sample.prompt)
        special = sample.tags[TEMPLATE_TAG] == "tokenizer"
        return _tokens(tokenizer, head + sample.completion.text, len(head), 0, len(sample.completion.text), special=special)
    answer = sample.completion.text
    text, marked = render(tokenizer, sample.prompt, answer), render(tokenizer, sample.prompt, _MARK)
    start = marked.find(_MARK)
    before, after = marked[:start], marked[start + len(_MARK) :]
    stripped = answer.strip()  # as some templates do
    for shown, skipped in ((answer, 0), (stripped, len(answer) - len(answer.lstrip()))):
        if text == before + shown + after:
            return _tokens(tokenizer, text, start, skipped, len(answer), special=None)
    return absence(
        pb.ABSENCE_REASON_NOT_APPLICABLE, "want.tokens: the model's chat template rewrites the answer; ask without token rewards"
    )


def _tokens(tokenizer: Any, text: str, start: int, skipped: int, length: int, *, special: bool | None) -> AnswerTokens:
    """Tokens of `text` from code point `start` on, where an answer of `length` code points is shown without its first `skipped`."""
    places = np.asarray(encode_with_offsets(tokenizer, text, special=special), np.int64).reshape(-1, 2)
    within = np.flatnonzero(places[:, 1] > start)
    # Nothing follows where answer and end are empty: the score alone is read, at the last token.
    first = int(within[0]) if len(within) else len(places) - 1
    offsets = np.clip(places[first:] - start + skipped, 0, length)
    offsets[places[first:, 1] <= start] = length  # special tokens that the tokenizer adds at the end stand nowhere
    return AnswerTokens(first, offsets.astype(np.int32))
