"""Values as data: round trips, and encodings that a hostile program may send."""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewardmesh.verifier.sandbox.inside import data, frames
from rewardmesh.verifier.sandbox.memo import Memo

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
HASHABLE = st.recursive(SCALARS, lambda one: st.tuples(one, one) | st.frozensets(one, max_size=3), max_leaves=5)
VALUES = st.recursive(
    SCALARS,
    lambda one: st.lists(one, max_size=3) | st.tuples(one) | st.dictionaries(HASHABLE, one, max_size=3) | st.sets(HASHABLE, max_size=3),
)


@given(VALUES)
def test_values_come_back_as_they_were(value: Any) -> None:
    found = data.decode(data.loads(data.dumps(data.encode(value))))
    assert found == value
    assert type(found) is type(value)


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize("value", [object(), len, ["x", print], deep(200), [1 << 2**21], {"k": {1: object()}}])
def test_what_is_no_data_is_refused(value: Any) -> None:
    with pytest.raises(data.NotData):
        data.encode(value)


@pytest.mark.parametrize(
    "text",
    [
        *(b"", b"{", b"[" * 100_000, b"\xff", b'"x' * 2**22, b'{"a": 1}', b'["o", 1]', b'["h", 0]'),
        *(b'["i", 5]', b'["i", "zz"]', b'["f", "x"]', b'["b", "0"]', b'["x", "Decimal", "1e"]', b'["r", 1, 2, 0]'),
        *(b'["s", [["l", []]]]', b'["d", [[1]]]', b'["d", [[["l", []], 1]]]'),
    ],
)
def test_hostile_encodings_are_refused(text: bytes) -> None:
    with pytest.raises(data.NotData):
        data.decode(data.loads(text))


@pytest.mark.parametrize(
    "head", [b"[]", b"1", b"{}", b'{"blobs": [-1]}', b'{"blobs": [true]}', b'{"blobs": [999999999999]}', b"[" * 100_000, b"\xff"]
)
def test_hostile_headers_are_refused(head: bytes) -> None:
    with pytest.raises(ValueError):
        frames.header_of(head)


async def test_equal_work_is_done_once_and_kept() -> None:
    memo, made = Memo(10_000), 0

    async def make() -> tuple[str, int | None]:
        nonlocal made
        made += 1
        await asyncio.sleep(0.05)
        return "value", 100

    assert await asyncio.gather(*(memo.get("verdict", ("same",), make) for _ in range(5))) == ["value"] * 5
    await memo.get("verdict", ("same",), make)
    assert made == 1
    await memo.get("verdict", ("other",), make)
    assert made == 2


@pytest.mark.parametrize("ends", ["cancelled", "raises", "not kept"])
async def test_work_that_comes_to_nothing_is_done_again(ends: str) -> None:
    memo, made = Memo(10_000), 0

    async def make() -> tuple[int, int | None]:
        nonlocal made
        made += 1
        mine = made
        await asyncio.sleep(0.05)
        if ends == "raises" and mine == 1:
            raise LookupError
        return mine, None

    first = asyncio.create_task(memo.get("verdict", (1,), make))
    await asyncio.sleep(0.01)
    second = asyncio.create_task(memo.get("verdict", (1,), make))
    await asyncio.sleep(0.01)
    if ends == "cancelled":
        first.cancel()
    results = await asyncio.gather(first, second, return_exceptions=True)
    assert results[1] == (1 if ends == "not kept" else 2)
    assert await memo.get("verdict", (1,), make) == made
