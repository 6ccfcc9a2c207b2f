"""Lay sequences end to end in one row and compute every shared prefix once.

The plan is a forest of segments. A segment is a run of tokens; its ancestors are the segments before it on the path from the
start of the sequence. Sequences with a common prefix share the segments of that prefix: a prompt with its completions is a tree of
depth two, a system prompt over several prompts one of depth three, and so on. Sharing is found from the tokens themselves.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

TokenIds = Sequence[int] | npt.NDArray[np.int32] | npt.NDArray[np.int64]
"""Token ids of one sequence."""

MIN_SHARED_TOKENS = 8
"""Shorter common prefixes are computed twice: a segment costs one attention call a layer, more than a few tokens do."""


@dataclass(frozen=True)
class Segment:
    """A run of tokens of the row.

    Attributes:
        start, stop: half-open range of positions in the row.
        offset: position of its first token in its sequence (the rotary position).
        ancestors: indices of the segments before it, first one first.
    """

    start: int
    stop: int
    offset: int
    ancestors: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """How a batch lies in the row.

    Attributes:
        token_ids: int64 [T], the tokens really computed.
        segments: in row order; every ancestor lies before its descendants.
        paths: for each sequence the indices of its segments, first one first.
        tokens_read: tokens of all sequences, before sharing.
    """

    token_ids: torch.Tensor
    segments: tuple[Segment, ...]
    paths: tuple[tuple[int, ...], ...]
    tokens_read: int

    @cached_property
    def position_ids(self) -> torch.Tensor:
        """int64 [T]: position of every token in its own sequence."""
        return torch.cat([torch.arange(s.offset, s.offset + s.stop - s.start) for s in self.segments])

    def rows(self, sequence: int) -> torch.Tensor:
        """int64 [L]: where in the row the tokens of one sequence lie, in order."""
        return torch.cat([torch.arange(self.segments[i].start, self.segments[i].stop) for i in self.paths[sequence]])

    def computed_by(self) -> list[int]:
        """Tokens really computed for each sequence: a shared segment counts for the first sequence that has it."""
        paid: set[int] = set()
        counts = []
        for path in self.paths:
            counts.append(sum(self.segments[i].stop - self.segments[i].start for i in path if i not in paid))
            paid.update(path)
        return counts


def make_plan(sequences: Sequence[TokenIds], min_shared_tokens: int = MIN_SHARED_TOKENS) -> Plan:
    """Plan a batch.

    Args:
        sequences: token ids, none empty.
        min_shared_tokens: least length of a shared run, at least 1; a huge number packs without sharing.

    Raises:
        ValueError: an empty batch or sequence.
    """
    if not sequences:
        raise ValueError("sequences: must not be empty")
    arrays = [np.asarray(ids, dtype=np.int64) for ids in sequences]
    for index, ids in enumerate(arrays):
        if not len(ids):
            raise ValueError(f"sequences[{index}]: has no tokens")
    # Sorted by content, neighbours share the longest prefixes; big-endian bytes order as the numbers do.
    order = sorted(range(len(arrays)), key=lambda i: arrays[i].astype(">i8").tobytes())
    ordered = [arrays[i] for i in order]
    common = [common_prefix(a, b) for a, b in itertools.pairwise(ordered)]
    segments: list[Segment] = []
    pieces: list[npt.NDArray[np.int64]] = []
    paths: list[tuple[int, ...]] = [()] * len(arrays)
    end = 0

    def add(tokens: npt.NDArray[np.int64], offset: int, ancestors: tuple[int, ...]) -> tuple[int, ...]:
        nonlocal end
        segments.append(Segment(end, end + len(tokens), offset, ancestors))
        pieces.append(tokens)
        end += len(tokens)
        return (*ancestors, len(segments) - 1)

    # (first, one past last, tokens already laid, ancestors)
    stack: list[tuple[int, int, int, tuple[int, ...]]] = [(0, len(ordered), 0, ())]
    while stack:
        low, high, depth, ancestors = stack.pop()
        blocks = _blocks(common, low, high, depth + max(min_shared_tokens, 1))
        for first, stop in blocks:
            if stop - first == 1:
                rest = ordered[first][depth:]
                paths[order[first]] = add(rest, depth, ancestors) if len(rest) else ancestors
                continue
            shared = min(common[first : stop - 1])
            stack.append((first, stop, shared, add(ordered[first][depth:shared], depth, ancestors)))
    read = sum(len(ids) for ids in arrays)
    return Plan(torch.from_numpy(np.concatenate(pieces)), tuple(segments), tuple(paths), read)


def _blocks(common: Sequence[int], low: int, high: int, at_least: int) -> list[tuple[int, int]]:
    """Split a sorted range where neighbours share fewer than `at_least` tokens."""
    cuts = [low, *(i + 1 for i in range(low, high - 1) if common[i] < at_least), high]
    return list(itertools.pairwise(cuts))


def common_prefix(a: TokenIds, b: TokenIds) -> int:
    """Number of tokens that two sequences begin with alike."""
    length = min(len(a), len(b))
    different = np.flatnonzero(np.asarray(a[:length]) != np.asarray(b[:length]))
    return int(different[0]) if len(different) else length
