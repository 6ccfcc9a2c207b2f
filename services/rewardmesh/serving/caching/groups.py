"""With `batch_invariant` a group of a call is computed by itself and whole, so it is known, looked up and computed whole."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

from rewardmesh.serving.batching import Work
from rewardmesh.serving.caching.keys import unit_keys

P = TypeVar("P")


def with_unit_keys(works: Sequence[Work[P]]) -> list[Work[P]]:
    """The same works; keys cover the distinct items of the group that they are computed with, in order."""
    groups: dict[Hashable, dict[bytes | None, None]] = {}
    for work in works:
        groups.setdefault((work.lane, work.group), {})[work.key] = None
    renamed: dict[Hashable, dict[bytes, bytes]] = {}
    for group, members in groups.items():
        keys = [key for key in members if key is not None]
        # One that has no identity leaves its company without one.
        renamed[group] = {} if None in members else dict(zip(keys, unit_keys(keys), strict=True))
    return [replace(work, key=renamed[work.lane, work.group].get(work.key) if work.key else None) for work in works]


def whole_groups(works: Sequence[Work[P]], indices: Iterable[int]) -> Iterable[Sequence[int]]:
    """The indices by the group that their works belong to."""
    groups: dict[Hashable, list[int]] = {}
    for index in indices:
        groups.setdefault((works[index].lane, works[index].group), []).append(index)
    return groups.values()
