"""Verifiers that judge groups, on the wire: grouping, order, streams, and what a bad group costs."""

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

import grpc
import pytest

from rewardmesh.client.arrays import pack_floats
from rewardmesh.serving import Server
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import verifier_service_pb2 as verifier_pb

Start = Callable[..., Awaitable[tuple[Server, Any]]]
HANGS = "A: 9**9**9**9"


def samples(*groups: tuple[str, str], prefix: str = "") -> list[pb.Sample]:
    """Samples from (group id, answers separated by spaces); ids tell group and place."""
    return [
        pb.Sample(
            id=f"{prefix}{group}/{place}", group_id=group, completion=pb.Completion(text=answer if answer == HANGS else f"A: {answer}")
        )
        for group, answers in groups
        for place, answer in enumerate([answers] if answers == HANGS else answers.split())
    ]


def request(listed: Iterable[pb.Sample], verifier: str = "consensus", **options: Any) -> Any:
    message = verifier_pb.VerifyRequest(verifier=verifier, samples=listed)
    message.options.update(options)
    return message


def told(outcome: verifier_pb.VerdictOutcome) -> str:
    if outcome.HasField("absence"):
        return pb.AbsenceReason.Name(outcome.absence.reason).removeprefix("ABSENCE_REASON_")
    return verifier_pb.VerdictStatus.Name(outcome.verdict.status).removeprefix("VERDICT_STATUS_")


async def streamed(stub: Any, messages: Iterable[list[pb.Sample]], **options: Any) -> dict[str, str]:
    async def sent() -> AsyncIterator[Any]:
        first = verifier_pb.StreamVerifyRequest(verifier="consensus")
        first.options.update(options)
        yield first
        for message in messages:
            yield verifier_pb.StreamVerifyRequest(samples=message)

    found: dict[str, str] = {}
    async for reply in stub.StreamVerify(sent(), timeout=30):
        for outcome in reply.outcomes:
            assert outcome.sample_id not in found
            found[outcome.sample_id] = told(outcome)
    return found


async def test_groups_are_judged_together_wherever_their_samples_stand(start: Start) -> None:
    _, stub = await start()
    mixed = samples(("a", "4 4 5"), ("b", "6 7 7"))
    mixed = [mixed[place] for place in (3, 0, 5, 1, 4, 2)]
    response = await stub.Verify(request(mixed), timeout=20)
    assert [outcome.sample_id for outcome in response.outcomes] == [sample.id for sample in mixed]
    assert [told(outcome) for outcome in response.outcomes] == ["FAIL", "PASS", "PASS", "PASS", "PASS", "FAIL"]
    assert response.outcomes[1].verdict.evidence == "answer '4' has 0.667 of the votes: '4' 2, '5' 1"
    assert response.outcomes[1].verdict.location.span.start == 3


async def test_a_sample_without_a_group_is_one_of_its_own(start: Start) -> None:
    _, stub = await start()
    response = await stub.Verify(request(samples(("", "4 4 4"))), timeout=20)
    assert [told(outcome) for outcome in response.outcomes] == ["ABSTAINED"] * 3
    response = await stub.Verify(request(samples(("", "4 4 4")), minimum_size=1), timeout=20)
    assert [told(outcome) for outcome in response.outcomes] == ["PASS"] * 3


async def test_an_unreadable_sample_does_not_harm_its_group(start: Start) -> None:
    _, stub = await start()
    group = samples(("a", "4 4 5"))
    group[0].ClearField("completion")
    group[1].completion.sampling_log_probs.CopyFrom(pb.Float32Array(data=b"123", length=1))
    response = await stub.Verify(request(group, minimum_size=1), timeout=20)
    assert [told(outcome) for outcome in response.outcomes] == ["INVALID_INPUT", "INVALID_INPUT", "PASS"]
    assert "completion.sampling_log_probs: 3 bytes for 1 values" in response.outcomes[1].absence.detail


async def test_what_few_verifiers_read_arrives(start: Start) -> None:
    _, stub = await start()
    group = samples(("a", "4 5 5"))
    for sample, log_prob in zip(group, (-0.1, -2.0, -2.0), strict=True):
        sample.completion.sampling_log_probs.CopyFrom(pack_floats([log_prob, log_prob]))
    response = await stub.Verify(request(group, weights="log_prob"), timeout=20)
    assert [told(outcome) for outcome in response.outcomes] == ["PASS", "FAIL", "FAIL"]


async def test_a_group_that_hangs_costs_only_itself(start: Start) -> None:
    _, stub = await start(item_timeout_seconds=0.5)
    mixed = samples(("a", "4 4"), ("bad", "4"), ("bad", HANGS), ("c", "5 5"))
    for place, sample in enumerate(mixed):
        sample.id = str(place)
    response = await stub.Verify(request(mixed), timeout=30)
    assert [told(outcome) for outcome in response.outcomes] == ["PASS", "PASS", "DEADLINE", "DEADLINE", "PASS", "PASS"]
    response = await stub.Verify(request(mixed, on_timeout="fail"), timeout=30)
    assert [told(outcome) for outcome in response.outcomes] == ["PASS", "PASS", "FAIL", "FAIL", "PASS", "PASS"]


async def test_a_stream_judges_the_groups_of_each_message(start: Start) -> None:
    _, stub = await start(workers=2, stream_window_items=8)
    messages = [
        list(itertools.chain(*(samples((f"{number}-{group}", "4 4 5"), ("", "6"), prefix=f"{number}-{group}:") for group in range(4))))
        for number in range(20)
    ]
    for message in messages:
        message.sort(key=lambda sample: sample.id[::-1])  # groups are not together in it
    found = await streamed(stub, messages)
    assert len(found) == 20 * 4 * 4
    expected = {"0": "PASS", "1": "PASS", "2": "FAIL"}
    assert all(result == ("ABSTAINED" if ":/" in name else expected[name[-1]]) for name, result in found.items())


async def test_a_group_larger_than_the_window_is_judged(start: Start) -> None:
    _, stub = await start(stream_window_items=4)
    found = await streamed(stub, [samples(("a", "4 " * 30 + "5"), ("b", "6 6"))])
    assert list(found.values()).count("PASS") == 32


async def test_a_group_in_two_messages_is_refused(start: Start) -> None:
    _, stub = await start()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await streamed(stub, [samples(("a", "4 4"), ("b", "5 5")), samples(("c", "4"), ("b", "5"), prefix="again-")])
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "samples[1].group_id: 'b' came in an earlier message" in (caught.value.details() or "")
    assert "a group must come whole, in one message of a stream" in (caught.value.details() or "")


async def test_it_is_told_which_verifiers_judge_groups(start: Start) -> None:
    _, stub = await start()
    listed = (await stub.ListVerifiers(verifier_pb.ListVerifiersRequest(), timeout=20)).verifiers
    groups = {info.name for info in listed if info.groups}
    assert groups == {"consensus", "knowledge-boundary"}
