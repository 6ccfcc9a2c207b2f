"""Raw samples: the prompts that whole texts share are found, and computed once."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from rewardmesh.client import sample
from rewardmesh.reward.raw import prefix_groups
from rewardmesh.serving.raw import is_raw, raw_sample

SYSTEM = list(range(100, 120))
A = [*SYSTEM, *range(200, 240)]
B = [*SYSTEM, *range(300, 360)]


def test_texts_of_one_prompt_are_a_group() -> None:
    texts = [[*A, 1, 2], [*B, 1], [*A, 3], [*B, 2, 3], [7, 8], [*A, 1, 4, 5], [*SYSTEM, 5, 6, 7]]
    groups = prefix_groups(texts)
    assert [shared for _, shared in groups] == [60, 80, 60, 80, 0, 60, 0]
    assert groups[0] == groups[2] == groups[5]
    assert groups[1] == groups[3]
    assert len({group for group, _ in groups}) == 4


def test_a_system_prompt_alone_makes_a_group_where_there_is_no_other() -> None:
    assert [shared for _, shared in prefix_groups([[*SYSTEM, 1, 2], [*SYSTEM, 3], [*SYSTEM, 4]])] == [20, 20, 20]
    assert prefix_groups([]) == []


def test_a_text_always_has_a_token_of_its_own() -> None:
    assert [shared for _, shared in prefix_groups([A, A, [*A, 1]])] == [59, 59, 59]


TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=6)
TEXTS = st.lists(st.tuples(st.sampled_from([[], SYSTEM, A, B]), TOKENS).map(lambda pair: [*pair[0], *pair[1]]), max_size=8)


@settings(max_examples=200, deadline=None, database=None, derandomize=True)
@given(TEXTS)
def test_what_a_group_shares_it_shares(texts: list[list[int]]) -> None:
    groups = prefix_groups(texts)
    assert len(groups) == len(texts)
    for name, shared in groups:
        members = [text for text, (group, _) in zip(texts, groups, strict=True) if group == name]
        assert all(text[:shared] == members[0][:shared] and len(text) > shared for text in members)


async def test_whole_texts_share_what_split_ones_share(serve: Any) -> None:
    head = "How many apples does Ann have? " * 4
    texts = [f"{number} + 7 = {number + 7}. The answer is {number + 7}." for number in range(4)]
    async with serve(cache_bytes=0) as client:
        split = await client.score([raw_sample(f"s{i}", text, prompt=head) for i, text in enumerate(texts)])
    async with serve(cache_bytes=0) as client:
        whole = await client.score([raw_sample(f"w{i}", head + text) for i, text in enumerate(texts)])
    assert [round(score.value, 5) for score in whole] == [round(score.value, 5) for score in split]
    read, computed = (sum(getattr(score.provenance, name) for score in whole) for name in ("tokens_read", "tokens_computed"))
    assert computed < 0.6 * read
    assert not is_raw(sample("a", "?", "!"))
