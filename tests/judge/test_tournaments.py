"""Which pairs a tournament asks, in which orders lists are shown, and how repeats are put together."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rewardmesh.judge.ranking import combined, complete
from rewardmesh.judge.tournaments import default_pairs_per_answer, list_orders, sparse_pairs

NAN = float("nan")


def test_matrices_are_combined_where_they_have_verdicts() -> None:
    one, other = np.array([[0.5, 0.8], [0.2, 0.5]]), np.array([[0.5, NAN], [NAN, 0.5]])
    mean, counts = combined([one, other])
    assert mean[0, 1] == 0.8
    assert counts[0, 1] == 1
    assert complete(mean)
    assert not complete(other)


@given(st.integers(2, 25), st.integers(2, 8), st.integers(0, 2**31))
def test_sparse_tournaments_are_regular_and_connected(size: int, per_answer: int, seed: int) -> None:
    pairs = sparse_pairs(size, per_answer, seed)
    assert len(set(pairs)) == len(pairs)
    met = [sum(i in pair for pair in pairs) for i in range(size)]
    wanted = min(per_answer, size - 1)
    assert set(met) == {wanted + (wanted < size - 1 and wanted * size % 2)}
    reached, waiting = {0}, [0]
    while waiting:
        here = waiting.pop()
        for other in {j for pair in pairs if here in pair for j in pair} - reached:
            reached.add(other)
            waiting.append(other)
    assert len(reached) == size
    assert pairs == sparse_pairs(size, per_answer, seed)


def test_the_default_tournament_is_sparse_for_many_answers() -> None:
    assert [default_pairs_per_answer(size) for size in (2, 4, 8, 64)] == [2, 3, 4, 7]


@given(st.integers(2, 9), st.integers(1, 20), st.integers(0, 2**31))
def test_lists_are_shown_in_other_orders(size: int, repeats: int, seed: int) -> None:
    orders = list_orders(size, repeats, seed)
    assert len(orders) == repeats
    assert orders[0] == list(range(size))
    assert all(sorted(order) == list(range(size)) for order in orders)
    if repeats >= size:
        for place, answer in itertools.product(range(size), range(size)):
            assert sum(order[place] == answer for order in orders[:size]) == 1
