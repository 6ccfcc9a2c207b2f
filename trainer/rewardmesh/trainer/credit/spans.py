"""Rewards of parts of a completion, put onto its tokens: spans of characters become spans of tokens, spans become one value a token."""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from rewardmesh.trainer.samples import FloatArray, IntArray, RewardSpan

Placement = Literal["each", "end", "spread"]
Decode = Callable[[Sequence[int]], str]


def token_character_ends(decode: Decode, token_ids: IntArray) -> npt.NDArray[np.int64]:
    """int64[m]: how many code points of the decoded text the first 1, 2, ..., m tokens write.

    A code point that several tokens write (byte-level tokenizers) belongs to the token that completes it: `decode` shows the
    unfinished one as U+FFFD, which is not counted.
    """
    ids = token_ids.tolist()
    ends = np.array([len(decode(ids[: count + 1]).rstrip("�")) for count in range(len(ids))], dtype=np.int64)
    return np.maximum.accumulate(ends) if ends.size else ends


def tokens_of_characters(start: int, end: int, ends: npt.NDArray[np.int64]) -> tuple[int, int] | None:
    """Tokens (first, one past the last) that write code points start:end; None where no token does, or the span is empty.

    `ends` int64[m] as of `token_character_ends`. A token that writes only part of the span is in it.
    """
    starts = np.concatenate([[0], ends[:-1]])
    touched = np.flatnonzero((start < end) & (starts < end) & (ends > start) & (ends > starts))
    return (int(touched[0]), int(touched[-1]) + 1) if touched.size else None


def spans_to_token_rewards(spans: Sequence[RewardSpan], length: int, placement: Placement) -> FloatArray:
    """float32[length], where overlapping spans add up and tokens in none have 0.

    `placement` of a span's value: on "each" of its tokens, on the one at its "end", or "spread" evenly so that the sum is kept.
    ValueError for a span that ends beyond `length`.
    """
    rewards = np.zeros(length, dtype=np.float64)
    for span in spans:
        if span.end > length:
            raise ValueError(f"span {span.start}:{span.end} ends beyond the completion's {length} tokens")
        if placement == "end":
            rewards[span.end - 1] += span.value
        else:
            rewards[span.start : span.end] += span.value / (span.end - span.start if placement == "spread" else 1)
    return rewards.astype(np.float32)


def character_values_to_tokens(
    values: npt.NDArray[np.floating], offsets: npt.NDArray[np.integer], ends: npt.NDArray[np.int64]
) -> FloatArray:
    """float32[m]: values of another tokenizer's tokens, put onto ours so that the sum is kept.

    `values` float[k] belong to code points offsets[:, 0]:offsets[:, 1], `offsets` int[k, 2]; `ends` int64[m] as of
    `token_character_ends`. A value goes to our token that writes the last of its code points; what lies beyond our text or is empty
    (a scorer's special tokens) goes to the last token.
    """
    rewards = np.zeros(len(ends), dtype=np.float64)
    for value, (start, end) in zip(values.tolist(), offsets.tolist(), strict=True):
        found = tokens_of_characters(start, end, ends)
        rewards[(found[1] if found else len(ends)) - 1] += value
    return rewards.astype(np.float32)
