"""Keys and values of prefixes that many batches begin with: system prompts, rubrics, the prompt of a group that fills several batches.

A radix tree over token ids, one for each version of a model: with the version it goes, so a value of other weights is never used.
Only prefixes that several sequences of a batch shared are kept, so single answers do not push them out; the least recently used go
first when the bytes run out. Plans are made on the engine's thread; `clear` may be called on any.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from rewardmesh.engine.packing import Plan, common_prefix

Ids = npt.NDArray[np.int64]
KeyValues = tuple[tuple[torch.Tensor, torch.Tensor], ...]
"""For each layer, keys and values [1, key heads, n, width] of n tokens."""


@dataclass(frozen=True)
class Run:
    """A run of cached tokens, as a plan holds it."""

    tokens: int
    layers: KeyValues


@dataclass(eq=False)
class Node:
    """A run of tokens in the tree; the root has none."""

    ids: Ids
    layers: KeyValues
    parent: Node | None
    children: dict[int, Node] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Memory of its keys and values."""
        return sum(t.numel() * t.element_size() for pair in self.layers for t in pair)


class PrefixCache:
    """Prefixes of one version of a model.

    Args:
        limit_bytes: most memory of keys and values.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.hit_tokens = 0
        self._lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        """Forget everything; plans that were made keep what they found."""
        with self._lock:
            self.root = Node(np.empty(0, np.int64), (), None)
            self.bytes = 0
            self._recency: OrderedDict[Node, None] = OrderedDict()

    def match(self, node: Node, ids: Ids, at_least: int) -> tuple[Node | None, list[Run]]:
        """Follow `ids` from a node.

        Args:
            at_least: a run of fewer tokens is not worth a segment; it ends the match.

        Returns:
            The node reached, None when the match ends inside a run or before the ids do; the cached runs on the way.
        """
        with self._lock:
            return self._match(node, ids, at_least)

    def _match(self, node: Node, ids: Ids, at_least: int) -> tuple[Node | None, list[Run]]:
        runs: list[Run] = []
        done = 0
        while done < len(ids):
            child = node.children.get(int(ids[done]))
            common = common_prefix(child.ids, ids[done:]) if child else 0
            if child is None or common < min(at_least, len(child.ids)):
                return None, runs
            self._touch(child)
            self.hit_tokens += common
            done += common
            if common < len(child.ids):
                runs.append(Run(common, tuple((k[:, :, :common], v[:, :, :common]) for k, v in child.layers)))
                return None, runs
            runs.append(Run(common, child.layers))
            node = child
        return node, runs

    def store(self, plan: Plan) -> None:
        """Keep what the forward pass collected for the plan's shared segments, then make room."""
        with self._lock:
            for index, layers in plan.kept.items():
                segment = plan.segments[index]
                if segment.path_ids is not None:
                    self._insert(segment.path_ids, segment.offset, tuple(layers))
            plan.kept.clear()
            while self.bytes > self.limit_bytes:
                self._evict(next(iter(self._recency)))

    def _insert(self, ids: Ids, offset: int, layers: KeyValues) -> None:
        """Add the tokens `ids[offset:]`, whose keys and values are `layers`, below the path `ids[:offset]`."""
        node, done = self.root, 0
        while done < len(ids) and (child := node.children.get(int(ids[done]))):
            common = common_prefix(child.ids, ids[done:])
            node = self._split(child, common) if common < len(child.ids) else child
            done += common
        if done < offset or done == len(ids):
            return  # what comes before has been pushed out, or all of it is there
        added = Node(ids[done:], _cut(layers, done - offset, len(ids) - offset), node)
        node.children[int(ids[done])] = added
        self.bytes += added.bytes
        self._recency[added] = None
        self._touch(added)

    def _split(self, node: Node, at: int) -> Node:
        """Cut a node's run in two; returns the upper part."""
        parent = node.parent
        assert parent is not None
        upper = Node(node.ids[:at], _cut(node.layers, 0, at), parent, {int(node.ids[at]): node})
        parent.children[int(node.ids[0])] = upper
        node.ids, node.layers, node.parent = node.ids[at:], _cut(node.layers, at, len(node.ids)), upper
        self._recency[upper] = None
        self._touch(upper)
        return upper

    def _evict(self, node: Node) -> None:
        # A parent is never less recent than its children, so this one has none.
        assert node.parent is not None
        assert not node.children
        del node.parent.children[int(node.ids[0])]
        del self._recency[node]
        self.bytes -= node.bytes

    def _touch(self, node: Node) -> None:
        while node.parent is not None and node in self._recency:  # not there: it was found before the cache was cleared
            self._recency.move_to_end(node)
            node = node.parent


def _cut(layers: KeyValues, start: int, stop: int) -> KeyValues:
    """A part of a run in memory of its own: a view would keep the whole alive."""
    if stop - start == layers[0][0].shape[2]:
        return layers
    return tuple((k[:, :, start:stop].clone(), v[:, :, start:stop].clone()) for k, v in layers)
