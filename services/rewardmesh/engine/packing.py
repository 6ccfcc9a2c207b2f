"""Lay sequences end to end in one row and compute every shared prefix once.

The plan is a forest of segments. A segment is a run of tokens; its ancestors are the segments before it on the path from the
start of the sequence. Sequences with a common prefix share the segments of that prefix: a prompt with its completions is a tree of
depth two, a system prompt over several prompts one of depth three, and so on. Sharing is found from the tokens themselves. Segments lie
depth-first: the descendants of a segment follow it without a gap. A prefix that an earlier batch left in the prefix cache is a segment
without rows: its keys and values come from the cache.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

if TYPE_CHECKING:
    from rewardmesh.engine.prefix_cache import Node, PrefixCache, Run

M = TypeVar("M")

TokenIds = Sequence[int] | npt.NDArray[np.int32] | npt.NDArray[np.int64]
"""Token ids of one sequence."""

MIN_SHARED_TOKENS = 8
"""Shorter common prefixes are computed twice: a segment costs one attention call a layer, more than a few tokens do."""


@dataclass(frozen=True)
class Segment:
    """A run of tokens of the row, or of the prefix cache.

    Attributes:
        start, stop: half-open range of positions in the row; empty for a cached run.
        offset: position of its first token in its sequence (the rotary position).
        ancestors: indices of the segments before it, first one first.
        cached: keys and values from the prefix cache; None for tokens of the row.
        path_ids: for a segment of the row that several sequences go through and that the prefix cache shall keep, the token ids from the
            start of those sequences to its end; else None.
    """

    start: int
    stop: int
    offset: int
    ancestors: tuple[int, ...]
    cached: Run | None = None
    path_ids: npt.NDArray[np.int64] | None = None

    @property
    def tokens(self) -> int:
        """Its length."""
        return self.cached.tokens if self.cached else self.stop - self.start


@dataclass(frozen=True)
class Plan:
    """How a batch lies in the row.

    Attributes:
        token_ids: int64 [T], the tokens really computed.
        segments: in row order; every ancestor lies before its descendants.
        paths: for each sequence the indices of its segments, first one first.
        first: for each sequence the first position whose hidden state is wanted.
        tokens_read: tokens of all sequences, before sharing.
        kept: for each segment that the prefix cache shall keep, its keys and values, layer by layer; filled by the forward pass.
    """

    token_ids: torch.Tensor
    segments: tuple[Segment, ...]
    paths: tuple[tuple[int, ...], ...]
    first: tuple[int, ...]
    tokens_read: int
    kept: dict[int, list[tuple[torch.Tensor, torch.Tensor]]] = field(default_factory=dict)
    _made: dict[Hashable, Any] = field(default_factory=dict)

    @cached_property
    def position_ids(self) -> torch.Tensor:
        """int64 [T]: position of every token in its own sequence."""
        lengths = [s.stop - s.start for s in self.segments]
        shifts = np.repeat([s.offset - s.start for s in self.segments], lengths)
        return torch.from_numpy(np.arange(len(self.token_ids)) + shifts)

    def rows(self, sequence: int) -> torch.Tensor:
        """int64: where in the row the tokens of one sequence lie, in order, from its first wanted position on."""
        return self.memo(("rows", sequence), lambda: self._find_rows(sequence))

    def _find_rows(self, sequence: int) -> torch.Tensor:
        first = self.first[sequence]
        parts = []
        for segment in (self.segments[i] for i in self.paths[sequence]):
            skipped = max(first - segment.offset, 0)
            if not segment.cached and skipped < segment.tokens:
                parts.append(torch.arange(segment.start + skipped, segment.stop))
        return torch.cat(parts)

    @cached_property
    def wanted(self) -> torch.Tensor | None:
        """int64, ascending: rows whose hidden states are wanted; None when all are."""
        if not any(self.first):
            return None
        rows = torch.from_numpy(np.unique(torch.cat([self.rows(i) for i in range(len(self.paths))]).numpy()))
        return None if len(rows) == len(self.token_ids) else rows

    @cached_property
    def query_starts(self) -> tuple[int, ...]:
        """For each segment the first of its rows that is wanted, or its end."""
        if self.wanted is None:
            return tuple(segment.start for segment in self.segments)
        rows = self.wanted.numpy()
        places = np.searchsorted(rows, [segment.start for segment in self.segments])
        found = [int(rows[place]) if place < len(rows) else len(self.token_ids) for place in places]
        return tuple(min(row, segment.stop) for row, segment in zip(found, self.segments, strict=True))

    @cached_property
    def reaches(self) -> tuple[int, ...]:
        """For each segment the row at which its descendants end; they begin where it stops (for a cached one, at its start)."""
        ends = [segment.stop for segment in self.segments]
        for segment in self.segments:
            for ancestor in segment.ancestors:
                ends[ancestor] = max(ends[ancestor], segment.stop)
        return tuple(ends)

    @cached_property
    def uses_cache(self) -> bool:
        """Whether some keys and values come from the prefix cache."""
        return any(segment.cached for segment in self.segments)

    def memo(self, key: Hashable, make: Callable[[], M]) -> M:
        """What `make` returns, made once: every layer needs the same masks and indices."""
        if key not in self._made:
            self._made[key] = make()
        found: M = self._made[key]
        return found

    def mask(self, queries: int, keys: int, window: int | None, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        """[queries, keys], added to logits: the last query sees every key, each earlier one a key less, and at most `window` of them."""

        def make() -> torch.Tensor:
            hidden = torch.ones(queries, keys, dtype=torch.bool, device=device).triu_(diagonal=keys - queries + 1)
            if window is not None:
                hidden |= torch.ones(queries, keys, dtype=torch.bool, device=device).tril_(diagonal=keys - queries - window)
            return torch.zeros(queries, keys, dtype=dtype, device=device).masked_fill_(hidden, -torch.inf)

        return self.memo(("mask", queries, keys, window, dtype, device), make)

    def computed_by(self) -> list[int]:
        """Tokens really computed for each sequence: a shared segment counts for the first sequence that has it."""
        paid: set[int] = set()
        counts = []
        for path in self.paths:
            counts.append(sum(self.segments[i].stop - self.segments[i].start for i in path if i not in paid))
            paid.update(path)
        return counts


def make_plan(
    sequences: Sequence[TokenIds],
    min_shared_tokens: int = MIN_SHARED_TOKENS,
    *,
    first: Sequence[int] | None = None,
    prefixes: PrefixCache | None = None,
) -> Plan:
    """Plan a batch.

    Args:
        sequences: token ids, none empty.
        min_shared_tokens: least length of a shared run, at least 1; a huge number packs without sharing.
        first: for each sequence the first position whose hidden state is wanted; None wants all.
        prefixes: keys and values of earlier batches; used up to the first wanted position.

    Raises:
        ValueError: an empty batch or sequence, a first position outside its sequence.
    """
    if not sequences:
        raise ValueError("sequences: must not be empty")
    arrays = [np.asarray(ids, dtype=np.int64) for ids in sequences]
    wanted = [0] * len(arrays) if first is None else list(first)
    for index, ids in enumerate(arrays):
        if not len(ids):
            raise ValueError(f"sequences[{index}]: has no tokens")
        if not 0 <= wanted[index] < len(ids):
            raise ValueError(f"first[{index}]: {wanted[index]} is not a position of a sequence of {len(ids)} tokens")
    forest = _Forest(arrays, wanted, max(min_shared_tokens, 1), prefixes)
    read = sum(len(ids) for ids in arrays)
    row = torch.from_numpy(np.concatenate(forest.pieces))
    return Plan(row, tuple(forest.segments), tuple(forest.paths), tuple(wanted), read)


@dataclass(frozen=True)
class _Branch:
    """Sequences (a range of the sorted ones) that are alike up to `depth`; `node` while their path is wholly in the prefix cache."""

    low: int
    high: int
    depth: int
    ancestors: tuple[int, ...]
    node: Node | None


class _Forest:
    """Lays the segments out, depth-first."""

    def __init__(
        self, arrays: Sequence[npt.NDArray[np.int64]], first: Sequence[int], min_shared: int, prefixes: PrefixCache | None
    ) -> None:
        # Sorted by content, neighbours share the longest prefixes; big-endian bytes order as the numbers do.
        self._order = sorted(range(len(arrays)), key=lambda i: arrays[i].astype(">i8").tobytes())
        self._sorted = [arrays[i] for i in self._order]
        self._common = [common_prefix(a, b) for a, b in itertools.pairwise(self._sorted)]
        self._first = [first[i] for i in self._order]
        self._min_shared = min_shared
        self._prefixes = prefixes
        self._end = 0
        self.segments: list[Segment] = []
        self.pieces: list[npt.NDArray[np.int64]] = []
        self.paths: list[tuple[int, ...]] = [()] * len(arrays)
        pending = self._split(0, len(arrays), 0, (), prefixes.root if prefixes else None)
        while pending:
            branch = pending.pop()
            pending += self._lay(branch)

    def _split(self, low: int, high: int, depth: int, ancestors: tuple[int, ...], node: Node | None) -> list[_Branch]:
        """The branches of sorted sequences: cut where neighbours share too few tokens beyond `depth`; last one first."""
        at_least = depth + self._min_shared
        cuts = [low, *(i + 1 for i in range(low, high - 1) if self._common[i] < at_least), high]
        return [_Branch(a, b, depth, ancestors, node) for a, b in reversed(list(itertools.pairwise(cuts)))]

    def _lay(self, branch: _Branch) -> list[_Branch]:
        """Lay what the sequences of a branch have in common; returns what is left of them."""
        low, high, depth = branch.low, branch.high, branch.depth
        alone = high - low == 1
        stop = len(self._sorted[low]) if alone else min(self._common[low : high - 1])
        ancestors, node = branch.ancestors, branch.node
        if node is not None and self._prefixes is not None:
            limit = min(stop, *self._first[low:high])
            node, runs = self._prefixes.match(node, self._sorted[low][depth:limit], self._min_shared)
            for run in runs:
                ancestors = self._add(Segment(self._end, self._end, depth, ancestors, run))
                depth += run.tokens
        if depth < stop:
            tokens = self._sorted[low][depth:stop]
            self.pieces.append(tokens)
            path_ids = None if alone or self._prefixes is None else self._sorted[low][:stop]
            ancestors = self._add(Segment(self._end, self._end + len(tokens), depth, ancestors, None, path_ids))
            self._end += len(tokens)
            node = None
        if alone:
            self.paths[self._order[low]] = ancestors
            return []
        # A sequence that ends here is the shortest of the range and sorted first: it has no tokens left.
        while low < high and len(self._sorted[low]) == stop:
            self.paths[self._order[low]] = ancestors
            low += 1
        return self._split(low, high, stop, ancestors, node) if low < high else []

    def _add(self, segment: Segment) -> tuple[int, ...]:
        self.segments.append(segment)
        return (*segment.ancestors, len(self.segments) - 1)


def common_prefix(a: TokenIds, b: TokenIds) -> int:
    """Number of tokens that two sequences begin with alike."""
    length = min(len(a), len(b))
    if isinstance(a, list) and isinstance(b, list) and a[:length] == b[:length]:
        return length  # the usual case, without making arrays of them
    different = np.flatnonzero(np.asarray(a[:length]) != np.asarray(b[:length]))
    return int(different[0]) if len(different) else length
