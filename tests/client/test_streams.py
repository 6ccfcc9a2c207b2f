"""Streams: one result an item, also when the connection breaks, when ids repeat, when the caller stops early or raises."""

import asyncio
import itertools
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

import grpc
import pytest

from rewardmesh.client import AbsenceReason, AsyncClient, CallFailed, ChannelOptions, Client, sample
from rewardmesh.v1 import common_pb2

Stream = Callable[..., list[Any]]


@pytest.fixture(params=["sync", "async"])
def stream(request: pytest.FixtureRequest) -> Stream:
    """stream(address, method, items): all results of a stream through either client."""

    def blocking(address: str, method: str, items: Any, channel: ChannelOptions | None = None, **kwargs: Any) -> list[Any]:
        with Client(address, channel_options=channel) as client:
            return list(getattr(client, method)(items, **kwargs))

    def asynchronous(address: str, method: str, items: Any, channel: ChannelOptions | None = None, **kwargs: Any) -> list[Any]:
        async def run() -> list[Any]:
            async with AsyncClient(address, channel_options=channel) as client:
                return [each async for each in getattr(client, method)(items, **kwargs)]

        return asyncio.run(run())

    return blocking if request.param == "sync" else asynchronous


def samples(count: int) -> list[common_pb2.Sample]:
    return [sample(f"s{index}", "prompt", "x" * index) for index in range(count)]


def abort_from(fake: Any, number: int, code: grpc.StatusCode) -> None:
    def hook(request: Any, context: grpc.ServicerContext) -> None:
        if len(fake.requests) >= number:
            context.abort(code, "as told")

    fake.hook = hook


def test_every_sample_is_answered(fake: Any, stream: Stream) -> None:
    scores = stream(fake.address, "stream_scores", iter(samples(300)), model="rm")
    assert {score.sample_id: score.value for score in scores} == {f"s{index}": index for index in range(300)}
    assert fake.requests[0].options.model.name == "rm"
    assert not any(request.HasField("options") for request in fake.requests[1:])


def test_an_empty_stream_ends(fake: Any, stream: Stream) -> None:
    assert stream(fake.address, "stream_scores", []) == []


def test_a_broken_stream_leaves_absences(fake: Any, stream: Stream) -> None:
    abort_from(fake, 4, grpc.StatusCode.UNAVAILABLE)
    scores = stream(fake.address, "stream_scores", samples(50))
    assert sorted(score.sample_id for score in scores) == sorted(item.id for item in samples(50))
    assert [score.value for score in scores if score.value is not None] in ([], [0], [0, 1])
    assert {score.absence.reason for score in scores if score.absence} == {AbsenceReason.INFRASTRUCTURE}


def test_a_stream_that_breaks_is_taken_up_again(fake: Any, stream: Stream) -> None:
    def hook(request: Any, context: grpc.ServicerContext) -> None:
        if len(fake.requests) % 20 == 0:
            context.abort(grpc.StatusCode.UNAVAILABLE, "as told")

    fake.hook = hook
    options = ChannelOptions(initial_backoff_s=0.001, stream_window=8)
    scores = stream(fake.address, "stream_scores", iter(samples(100)), channel=options, model="rm")
    assert len(scores) == 100
    assert {score.sample_id: score.value for score in scores} == {f"s{index}": index for index in range(100)}
    # Every call says first how to score.
    assert sum(request.options.model.name == "rm" for request in fake.requests) > 1


def test_groups_are_sent_again_whole(fake: Any, stream: Stream) -> None:
    def hook(request: Any, context: grpc.ServicerContext) -> None:
        if len(fake.requests) in (3, 9):
            context.abort(grpc.StatusCode.UNAVAILABLE, "as told")

    fake.hook = hook
    groups = [[sample(f"{name}{index}", "p", "x", group_id=name) for index in range(2)] for name in "abcdef"]
    results = stream(fake.address, "stream_evaluate", groups, channel=ChannelOptions(initial_backoff_s=0.001))
    assert sorted(result.evaluations[0].sample_id for result in results) == [f"{name}0" for name in "abcdef"]
    assert all(each.value == 1 for result in results for each in result.evaluations)


def test_streams_that_break_share_the_budget(fake: Any, stream: Stream) -> None:
    abort_from(fake, 0, grpc.StatusCode.UNAVAILABLE)
    options = ChannelOptions(initial_backoff_s=0.001, retry_budget=2, retry_refill=0, max_attempts=10)
    scores = stream(fake.address, "stream_scores", samples(3), channel=options)
    assert [score.value for score in scores] == [None] * 3
    assert sum(request.HasField("options") or not request.samples for request in fake.requests) == 3


def test_a_stream_without_hope_keeps_its_deadline(fake: Any, stream: Stream) -> None:
    abort_from(fake, 0, grpc.StatusCode.UNAVAILABLE)
    started = time.monotonic()
    options = ChannelOptions(max_attempts=100, initial_backoff_s=0.05, max_backoff_s=0.05)
    scores = stream(fake.address, "stream_scores", samples(3), channel=options, timeout_s=0.5)
    assert [score.value for score in scores] == [None] * 3
    assert time.monotonic() - started < 5


def test_only_so_many_items_are_under_way(fake: Any, stream: Stream) -> None:
    drawn = answered = most = 0
    hold = threading.Event()

    def source() -> Iterator[common_pb2.Sample]:
        nonlocal drawn, most
        for item in samples(60):
            drawn += 1
            most = max(most, drawn - answered)
            yield item

    def hook(request: Any, context: grpc.ServicerContext) -> None:
        nonlocal answered
        if request.samples and not hold.is_set():
            # Nothing is answered yet: the source must come to rest at the window.
            until_rest(lambda: drawn)
            hold.set()
        answered += len(request.samples)

    fake.hook = hook
    scores = stream(fake.address, "stream_scores", source(), channel=ChannelOptions(stream_window=10))
    assert len(scores) == 60
    assert 5 <= most <= 11  # the server counts an answer a moment before the client has it


def until_rest(count: Callable[[], int]) -> None:
    before = -1
    while count() != before:
        before = count()
        time.sleep(0.1)


async def test_an_asyncio_source_survives_a_break_while_it_waits(fake: Any) -> None:
    broken = threading.Event()

    def hook(request: Any, context: grpc.ServicerContext) -> None:
        if [item.id for item in request.samples] == ["second"] and not broken.is_set():
            broken.set()
            context.abort(grpc.StatusCode.UNAVAILABLE, "as told")

    async def source() -> AsyncIterator[common_pb2.Sample]:
        yield sample("first", "p", "c")
        yield sample("second", "p", "c")
        await asyncio.to_thread(broken.wait, 10)
        await asyncio.sleep(0.2)  # the call breaks meanwhile, and another has begun
        yield sample("third", "p", "c")

    fake.hook = hook
    async with AsyncClient(fake.address, channel_options=ChannelOptions(initial_backoff_s=0.01)) as client:
        found = [score.sample_id async for score in client.stream_scores(source())]
    assert sorted(found) == ["first", "second", "third"]


def test_a_blocking_source_survives_a_break_while_it_waits(fake: Any) -> None:
    broken = threading.Event()

    def hook(request: Any, context: grpc.ServicerContext) -> None:
        if [item.id for item in request.samples] == ["second"] and not broken.is_set():
            broken.set()
            context.abort(grpc.StatusCode.UNAVAILABLE, "as told")

    def source() -> Iterator[common_pb2.Sample]:
        yield sample("first", "p", "c")
        yield sample("second", "p", "c")
        broken.wait(10)
        time.sleep(0.2)
        yield sample("third", "p", "c")

    fake.hook = hook
    with Client(fake.address, channel_options=ChannelOptions(initial_backoff_s=0.01)) as client:
        assert sorted(score.sample_id for score in client.stream_scores(source())) == ["first", "second", "third"]


def test_a_mistake_raises(fake: Any, stream: Stream) -> None:
    abort_from(fake, 1, grpc.StatusCode.NOT_FOUND)
    with pytest.raises(CallFailed, match="NOT_FOUND: as told"):
        stream(fake.address, "stream_scores", samples(3))


@pytest.mark.parametrize("code", ["NOT_FOUND", "UNAVAILABLE"])
def test_the_servers_status_survives_a_write_that_fails(fake: Any, code: str) -> None:
    def hook(request: Any, context: grpc.ServicerContext) -> None:
        if len(request.samples) and request.samples[0].id == "s1":
            context.abort(grpc.StatusCode[code], "as told")

    fake.hook = hook

    async def once(client: AsyncClient) -> str:
        try:
            scores = [score async for score in client.stream_scores(samples(8))]
        except CallFailed as failure:
            return str(failure)
        assert len(scores) == 8
        return next(score.absence.detail for score in scores if score.absence)

    async def run() -> set[str]:
        async with AsyncClient(fake.address, channel_options=ChannelOptions(max_attempts=1)) as client:
            return {await once(client) for _ in range(150)}

    assert asyncio.run(run()) == {f"{code}: as told"}


def test_deadline(fake: Any, stream: Stream) -> None:
    fake.hook = lambda request, context: time.sleep(0.3 if request.samples else 0)
    scores = stream(fake.address, "stream_scores", samples(5), timeout_s=0.5)
    assert len(scores) == 5
    assert scores[0].value == 0
    assert scores[-1].absence.reason is AbsenceReason.DEADLINE


def test_repeated_ids_are_refused(fake: Any, stream: Stream) -> None:
    with pytest.raises(ValueError, match="duplicate sample id 's1'"):
        stream(fake.address, "stream_scores", [*samples(3), sample("s1", "p", "c")])


@pytest.mark.parametrize("error", [RuntimeError("source broke"), CallFailed(grpc.StatusCode.UNAVAILABLE, "another call")])
def test_errors_of_the_source_are_raised_as_they_are(fake: Any, stream: Stream, error: Exception) -> None:
    def source() -> Iterator[common_pb2.Sample]:
        yield from samples(3)
        raise error

    with pytest.raises(type(error)) as caught:
        stream(fake.address, "stream_scores", source())
    assert caught.value is error


def test_groups(fake: Any, stream: Stream) -> None:
    groups = [[sample(f"{name}{index}", "p", "x" * index, group_id=name) for index in range(3)] for name in "ab"]
    results = stream(fake.address, "stream_evaluate", [*groups, [sample("alone", "p", "xxxx")]], program="quality")
    assert [[each.value for each in result.evaluations] for result in results] == [[0, 1, 2], [0, 1, 2], [4]]
    assert fake.requests[0].options.program == "quality"


def test_a_broken_group_stream_leaves_absent_groups(fake: Any, stream: Stream) -> None:
    abort_from(fake, 3, grpc.StatusCode.UNAVAILABLE)
    groups = [[sample(f"{name}{index}", "p", "x", group_id=name) for index in range(2)] for name in "abc"]
    results = stream(fake.address, "stream_evaluate", groups)
    assert [[each.sample_id for each in result.evaluations] for result in results] == [["a0", "a1"], ["b0", "b1"], ["c0", "c1"]]
    assert [result.evaluations[0].absence is None for result in results] in ([True, False, False], [False] * 3)


@pytest.mark.parametrize(
    ("group", "words"),
    [([], "no samples"), ([sample("a", "p", "c"), sample("b", "p", "c")], "share one group_id"), ([sample("", "p", "c")], "no id")],
)
def test_wrong_groups_are_refused(fake: Any, stream: Stream, group: Sequence[common_pb2.Sample], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        stream(fake.address, "stream_evaluate", [group])


async def test_results_come_while_the_source_still_runs(fake: Any) -> None:
    answered = asyncio.Event()

    async def source() -> AsyncIterator[common_pb2.Sample]:
        yield sample("first", "p", "c")
        await asyncio.wait_for(answered.wait(), 10)
        yield sample("second", "p", "c")

    found = []
    async with AsyncClient(fake.address) as client:
        async for score in client.stream_scores(source()):
            found.append(score.sample_id)
            answered.set()
    assert found == ["first", "second"]


async def test_leaving_early_ends_the_call(fake: Any) -> None:
    ended = threading.Event()
    fake.hook = lambda request, context: context.add_callback(ended.set)

    def endless() -> Iterator[common_pb2.Sample]:
        return (sample(str(index), "p", "c") for index in itertools.count())

    async with AsyncClient(fake.address) as client:
        scores: Any = client.stream_scores(endless())
        assert (await anext(scores)).value == 1
        await scores.aclose()
        assert await asyncio.to_thread(ended.wait, 5)

    def blocking() -> None:
        ended.clear()
        with Client(fake.address) as client:
            scores: Any = client.stream_scores(endless())
            assert next(scores).value == 1
            scores.close()
            assert ended.wait(5)

    await asyncio.to_thread(blocking)
