"""Plans: every sequence is in the row, in order, with its own positions, and what is shared lies there once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewardmesh.engine.packing import Plan, make_plan

Sequences = list[list[int]]


@st.composite
def forests(draw: st.DrawFn) -> Sequences:
    """Sequences with a good chance of common prefixes at several depths, and of repeats."""
    tokens = st.lists(st.integers(0, 3), max_size=6)
    result: Sequences = []
    for _ in range(draw(st.integers(1, 10))):
        stem = draw(st.sampled_from([[], *result]))
        result.append(stem[: draw(st.integers(0, len(stem)))] + draw(tokens) or [draw(st.integers(0, 3))])
    return result


def seen_by(plan: Plan, sequence: int) -> list[int]:
    """Tokens that the last segment of a sequence attends to, its own included."""
    last = plan.segments[plan.paths[sequence][-1]]
    spans = [*(plan.segments[i] for i in last.ancestors), last]
    return [token for s in spans for token in plan.token_ids[s.start : s.stop].tolist()]


@given(forests(), st.integers(1, 9))
def test_every_sequence_is_reproduced_by_its_rows(sequences: Sequences, least: int) -> None:
    plan = make_plan(sequences, min_shared_tokens=least)
    for index, sequence in enumerate(sequences):
        rows = plan.rows(index)
        assert plan.token_ids[rows].tolist() == sequence
        assert plan.position_ids[rows].tolist() == list(range(len(sequence)))
        assert seen_by(plan, index) == sequence
    assert plan.tokens_read == sum(map(len, sequences))
    assert sum(plan.computed_by()) == len(plan.token_ids) <= plan.tokens_read


@given(forests())
def test_the_segments_tile_the_row_and_ancestors_come_first(sequences: Sequences) -> None:
    plan = make_plan(sequences, min_shared_tokens=1)
    edge = 0
    for index, segment in enumerate(plan.segments):
        assert segment.start == edge < segment.stop
        edge = segment.stop
        assert all(ancestor < index for ancestor in segment.ancestors)
        assert segment.offset == sum(plan.segments[i].stop - plan.segments[i].start for i in segment.ancestors)
    assert edge == len(plan.token_ids)


@given(forests())
def test_sharing_from_one_token_on_computes_every_distinct_prefix_once(sequences: Sequences) -> None:
    prefixes = {tuple(sequence[:n]) for sequence in sequences for n in range(1, len(sequence) + 1)}
    assert len(make_plan(sequences, min_shared_tokens=1).token_ids) == len(prefixes)


@given(forests(), st.integers(2, 9))
def test_no_run_shorter_than_the_minimum_is_shared(sequences: Sequences, least: int) -> None:
    plan = make_plan(sequences, min_shared_tokens=least)
    for index, segment in enumerate(plan.segments):
        if any(index in other.ancestors for other in plan.segments):
            assert segment.stop - segment.start >= least


def test_a_prompt_is_computed_once_and_counts_for_the_first_that_brings_it() -> None:
    prompt = list(range(10))
    plan = make_plan([[*prompt, 50, 51], [*prompt, 40], [*prompt, 60, 61, 62]])
    assert len(plan.token_ids) == 10 + 2 + 1 + 3
    assert plan.computed_by() == [12, 1, 3]


def test_three_levels_of_sharing() -> None:
    system, first, second = list(range(20)), list(range(100, 110)), list(range(200, 210))
    sequences = [[*system, *first, 1], [*system, *first, 2], [*system, *second, 3], [*system, *second, 4], [*system, 9]]
    plan = make_plan(sequences)
    assert len(plan.token_ids) == 20 + 10 + 10 + 5
    assert [len(path) for path in plan.paths] == [3, 3, 3, 3, 2]
    assert plan.computed_by() == [31, 1, 11, 1, 1]


def test_repeats_and_prefixes_of_others_cost_nothing() -> None:
    plan = make_plan([list(range(10)), list(range(10)), list(range(12))])
    assert len(plan.token_ids) == 12
    assert plan.computed_by() == [10, 0, 2]


def test_short_prefixes_are_computed_again() -> None:
    sequences = [[1, 2, 3, 4], [1, 2, 3, 5]]
    assert len(make_plan(sequences).token_ids) == 8
    assert len(make_plan(sequences, min_shared_tokens=3).token_ids) == 5
    assert len(make_plan(sequences, min_shared_tokens=4).token_ids) == 8


def test_arrays_are_as_good_as_lists() -> None:
    plan = make_plan([np.array([3, 70000], np.int32), np.array([3, 1], np.int64)], min_shared_tokens=1)
    assert plan.token_ids[plan.rows(0)].tolist() == [3, 70000]


def test_empty_input_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="sequences: must not be empty"):
        make_plan([])
    with pytest.raises(ValueError, match=r"sequences\[1\]: has no tokens"):
        make_plan([[1], []])
