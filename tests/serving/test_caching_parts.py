"""Keys, codecs and the bounded memory of the caches."""

from __future__ import annotations

import math
import os
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewardmesh.serving import metrics
from rewardmesh.serving.caching.codec import CorruptValueError, FloatsCodec, frame, unframe
from rewardmesh.serving.caching.keys import KEY_BYTES, KeyMaker, unit_keys
from rewardmesh.serving.caching.memory import ENTRY_BYTES, MemoryCache

ids = st.lists(st.integers(0, 2**31 - 1), max_size=4)
inputs = st.tuples(
    st.sampled_from(["reward", "judge"]),
    st.lists(st.sampled_from(["f", "ff", "g"]), max_size=2),
    st.sampled_from(["scores", "labels"]),
    st.dictionaries(st.sampled_from(["temperature", "top_k"]), st.sampled_from([0, 1, 0.5, "1"]), max_size=2),
    st.lists(ids, max_size=3),
    st.binary(max_size=9),
    st.none() | st.integers(0, 3),
)

Input = tuple[str, list[str], str, dict[str, float], list[list[int]], bytes, int | None]


def as_text(item: Input) -> str:
    """As text 1 and "1" are as different as they are for the computation."""
    return repr([sorted(part.items()) if isinstance(part, dict) else part for part in item])


def key_of(item: Input) -> bytes:
    service, model, kind, options, parts, context, index = item
    return KeyMaker(service, model, kind, **options).key(*parts, context=context, sample_index=index)


@given(inputs, inputs)
def test_keys_are_equal_exactly_when_the_inputs_are(one: Input, other: Input) -> None:
    assert (key_of(one) == key_of(other)) == (as_text(one) == as_text(other))


def test_keys_do_not_care_how_token_ids_are_held() -> None:
    maker = KeyMaker("reward", ["f"], "scores")
    for same in ([3, 1, 4], (3, 1, 4), np.array([3, 1, 4], np.int32), np.array([3, 1, 4], np.int64)):
        assert maker.key(same) == maker.key([3, 1, 4])
    assert len(maker.key([3])) == KEY_BYTES


def test_boundaries_belong_to_the_key() -> None:
    maker = KeyMaker("logprob", ["f"], "token_statistics", temperature=1.0)
    keys = [maker.key([1, 2], [3]), maker.key([1], [2, 3]), maker.key([1, 2, 3]), maker.key([1, 2, 3], []), maker.key([], [1, 2, 3])]
    keys += [maker.key([1, 2], context=struct.pack("<q", 3)), KeyMaker("logprob", ["f"], "token_statistics").key([1, 2], [3])]
    keys.append(KeyMaker("logprob", ["f"], "token_statistics", temperature=0.5).key([1, 2], [3]))
    assert len(set(keys)) == len(keys)


def test_each_sample_of_a_question_has_its_own_key() -> None:
    maker = KeyMaker("judge", ["f"], "votes", labels=[7, 8], temperature=1.0)
    question = [5, 6, 7]
    keys = [maker.key(question, sample_index=index) for index in (None, 0, 1, 2)]
    assert len(set(keys)) == 4, "a verdict that is sampled is never one frozen verdict"
    assert maker.key(question, sample_index=1) == keys[2]
    with pytest.raises(ValueError, match="at least 0"):
        maker.key(question, sample_index=-1)


def test_options_that_are_no_finite_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="JSON"):
        KeyMaker("logprob", ["f"], "token_statistics", temperature=math.nan)


def test_a_unit_key_covers_all_of_its_company() -> None:
    a, b, c = (KeyMaker("reward", ["f"], "scores").key([token]) for token in (1, 2, 3))
    alone, together, swapped, others = unit_keys([a]), unit_keys([a, b]), unit_keys([b, a]), unit_keys([a, c])
    assert len({alone[0], *together, *swapped, *others}) == 7
    assert unit_keys([a, b]) == together


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False)))
def test_floats_come_back_equal_to_the_bit(values: list[float]) -> None:
    codec = FloatsCodec()
    data = codec.encode(values)
    assert data is not None
    assert struct.pack(f"{len(values)}d", *codec.decode(data)) == struct.pack(f"{len(values)}d", *values)


def test_what_is_not_finite_is_not_kept() -> None:
    for values in ([1.0, math.nan], [math.inf], [-math.inf, 0.0]):
        assert FloatsCodec().encode(values) is None
    with pytest.raises(CorruptValueError):
        FloatsCodec().decode(b"1234567")


@given(st.binary(max_size=40), st.data())
def test_a_damaged_frame_is_found_out(payload: bytes, data: st.DataObject) -> None:
    key, other = b"k" * KEY_BYTES, b"o" * KEY_BYTES
    framed = frame(key, 1, payload)
    assert unframe(key, 1, framed) == payload
    position = data.draw(st.integers(0, len(framed) - 1))
    damaged = bytearray(framed)
    damaged[position] ^= 1 << data.draw(st.integers(0, 7))
    for wrong in (bytes(damaged), framed[:position], framed + b"x", None, "text", 7):
        with pytest.raises(CorruptValueError):
            unframe(key, 1, wrong)
    with pytest.raises(CorruptValueError):
        unframe(other, 1, framed)
    with pytest.raises(CorruptValueError):
        unframe(key, 2, framed)


def test_memory_is_bounded_by_bytes_and_forgets_what_was_used_least_recently() -> None:
    entry = 100 + ENTRY_BYTES
    memory = MemoryCache("bounded", 3 * entry)
    payloads = {name: os.urandom(100) for name in (b"a", b"b", b"c", b"d")}
    for name in (b"a", b"b", b"c"):
        memory.put(name, payloads[name])
    assert memory.get(b"a") == payloads[b"a"]
    memory.put(b"d", payloads[b"d"])
    assert memory.get(b"b") is None, "the least recently used made room"
    assert [memory.get(name) for name in (b"a", b"c", b"d")] == [payloads[name] for name in (b"a", b"c", b"d")]
    assert memory.used_bytes == 3 * entry
    assert metrics.CACHE_BYTES.labels("bounded")._value.get() == 3 * entry
    memory.put(b"huge", bytes(4 * entry))
    assert memory.get(b"huge") is None
    assert len(memory) == 3, "what cannot fit drives nothing out"
    memory.put(b"large", bytes(2 * entry))
    assert len(memory) == 1
    assert memory.used_bytes <= 3 * entry


def test_a_memory_of_nothing_keeps_nothing() -> None:
    memory = MemoryCache("nothing", 0)
    memory.put(b"a", b"")
    assert memory.get(b"a") is None


@pytest.mark.parametrize("size", [8, 1000])
def test_the_bytes_that_are_counted_are_those_that_are_used(size: int) -> None:
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        memory = MemoryCache("measured", 2**40)
        for _ in range(30_000):
            memory.put(os.urandom(KEY_BYTES), os.urandom(size))
        used = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert 0.7 * memory.used_bytes < used <= memory.used_bytes
