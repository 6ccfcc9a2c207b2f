"""A verdict is computed once for the same question with the same labels, by whatever call it is asked."""

from __future__ import annotations

import asyncio

from judge.conftest import Serve
from rewardmesh.client import pair
from rewardmesh.v1 import judge_service_pb2 as api

PAIR = pair("p", "How many apples?", "19 apples", "7 apples")
SWAPPED = pair("swapped", "How many apples?", "7 apples", "19 apples")


async def test_the_same_pair_is_judged_once(serve: Serve) -> None:
    async with serve() as client:
        replies = await asyncio.gather(*(client.compare([PAIR]) for _ in range(8)))
        [swapped] = await client.compare([SWAPPED])
    results = [result for reply in replies for result in reply]
    assert len({result.value for result in results}) == 1
    provenances = [result.message.provenance for result in results]
    assert sum(not one.cached for one in provenances) == 1
    assert all((one.tokens_computed == 0) == one.cached for one in provenances)
    assert swapped.message.provenance.cached, "both orders are known"


async def test_one_order_known_is_half_of_the_work(serve: Serve) -> None:
    async with serve() as client:
        stub = client.judge
        given = api.CompareRequest(pairs=[PAIR], orders=api.COMPARE_ORDERS_AS_GIVEN)
        first = (await stub.Compare(given)).outcomes[0].provenance
        both = (await stub.Compare(api.CompareRequest(pairs=[PAIR]))).outcomes[0].provenance
    assert not both.cached, "one of its questions had to be computed"
    assert 0 < both.tokens_computed < both.tokens_read
    assert both.tokens_read == 2 * first.tokens_read


async def test_other_labels_are_another_question(serve: Serve) -> None:
    async with serve() as client:
        await client.compare([PAIR], template="short")
        [tie] = await client.compare([PAIR], template="with-tie")
        [again] = await client.compare([PAIR], template="with-tie")
    assert not tie.message.provenance.cached
    assert again.message.provenance.cached
    assert again.value == tie.value
