"""Which answers meet, and in which orders a list is shown. Pure functions of a seed.

A sparse tournament is a circulant graph on the answers in a random order: neighbours meet, which keeps it connected, and so do answers at
a few more distances drawn at random; every answer meets equally many others. Lists are shown in the rows of a Latin square, so that over
as many repeats as there are answers each answer stands once at each place.
"""

from __future__ import annotations

import itertools
import math

import numpy as np

Pairs = list[tuple[int, int]]
"""(i, j) with i < j, ascending."""


def all_pairs(size: int) -> Pairs:
    """Everybody meets everybody."""
    return list(itertools.combinations(range(size), 2))


def sparse_pairs(size: int, per_answer: int, seed: int) -> Pairs:
    """A connected random tournament in which each answer takes part in `per_answer` pairs (one more where both numbers are odd).

    Args:
        per_answer: at least 2; as many as there are others, or more, give all pairs.
    """
    if per_answer >= size - 1:
        return all_pairs(size)
    random = np.random.default_rng(seed)
    places = random.permutation(size)
    halves = (size - 1) // 2  # distances at which an answer meets two others; at half an even round it meets one
    opposite = per_answer % 2 == 1 and size % 2 == 0
    distances = [1, *(random.permutation(np.arange(2, halves + 1))[: math.ceil((per_answer - opposite) / 2) - 1]).tolist()]
    if opposite:
        distances.append(size // 2)
    met = {tuple(sorted((int(places[i]), int(places[(i + distance) % size])))) for i in range(size) for distance in distances}
    return sorted((i, j) for i, j in met)


def default_pairs_per_answer(size: int) -> int:
    """Enough for each answer's place to be found: about the depth of a sorting tree."""
    return max(2, math.ceil(math.log2(max(size, 2))) + 1)


def list_orders(size: int, repeats: int, seed: int) -> list[list[int]]:
    """So many orders of presentation; the first is the one given."""
    random = np.random.default_rng(seed)
    orders: list[list[int]] = []
    row = list(range(size))
    while len(orders) < repeats:
        shifts = [0, *(random.permutation(np.arange(1, size)).tolist())] if size > 1 else [0]
        orders += [row[shift:] + row[:shift] for shift in shifts]
        row = random.permutation(size).tolist()
    return orders[:repeats]
