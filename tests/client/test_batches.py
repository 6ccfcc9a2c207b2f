"""Batches: chunks, order, absences, errors, the same for both clients."""

import asyncio
import inspect
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from rewardmesh.client import (
    AbsenceReason,
    AsyncClient,
    CallFailed,
    ChannelOptions,
    Client,
    Violation,
    generation_prompt,
    pair,
    rank_group,
    sample,
    token_prefix,
    token_sequence,
)
from rewardmesh.v1 import common_pb2, generation_service_pb2, judge_service_pb2, mesh_service_pb2, reward_service_pb2

Call = Callable[..., Any]
NO_RETRIES = ChannelOptions(max_attempts=1)


@pytest.fixture(params=["sync", "async"])
def call(request: pytest.FixtureRequest) -> Call:
    """call(address, method, *args, client={...}, **kwargs): the same call through either client; streams become lists."""

    def blocking(address: str, method: str, /, *args: Any, client: dict[str, Any] | None = None, **kwargs: Any) -> Any:
        with Client(address, **(client or {})) as opened:
            result = getattr(opened, method)(*args, **kwargs)
            return list(result) if isinstance(result, Iterator) else result

    def asynchronous(address: str, method: str, /, *args: Any, client: dict[str, Any] | None = None, **kwargs: Any) -> Any:
        async def run() -> Any:
            async with AsyncClient(address, **(client or {})) as opened:
                result = getattr(opened, method)(*args, **kwargs)
                return [each async for each in result] if hasattr(result, "__aiter__") else await result

        return asyncio.run(run())

    return blocking if request.param == "sync" else asynchronous


def samples(count: int) -> list[common_pb2.Sample]:
    return [sample(f"s{index}", "prompt", "x" * index) for index in range(count)]


def aborting(code: grpc.StatusCode, *ids: str) -> Callable[[Any, grpc.ServicerContext], None]:
    def hook(request: Any, context: grpc.ServicerContext) -> None:
        if not ids or any(item.id in ids for item in request.samples):
            context.abort(code, "as told")

    return hook


def test_order_is_kept_over_chunks_that_finish_out_of_order(fake: Any, call: Call) -> None:
    fake.hook = lambda request, context: time.sleep(0.1 if request.samples[0].id == "s0" else 0)
    scores = call(fake.address, "score", samples(23), client={"chunk_items": 4})
    assert [score.sample_id for score in scores] == [f"s{index}" for index in range(23)]
    assert [score.value for score in scores] == list(range(23))
    assert sorted(len(request.samples) for request in fake.requests) == [3, 4, 4, 4, 4, 4]


def test_concurrency_is_bounded(fake: Any, call: Call) -> None:
    running, most, lock = 0, 0, threading.Lock()

    def hook(request: Any, context: Any) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.02)
        with lock:
            running -= 1

    fake.hook = hook
    call(fake.address, "score", samples(20), client={"chunk_items": 1, "concurrency": 3})
    assert 1 < most <= 3


def test_nothing_is_sent_for_nothing(fake: Any, call: Call) -> None:
    assert call(fake.address, "score", []) == []
    assert fake.requests == []


@pytest.mark.parametrize(("ids", "words"), [(["a", "b", "a"], "'a'"), (["a", ""], "no id")])
def test_bad_ids_are_refused_over_chunks(fake: Any, call: Call, ids: list[str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call(fake.address, "score", [sample(id, "p", "c") for id in ids], client={"chunk_items": 1})


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (grpc.StatusCode.UNAVAILABLE, AbsenceReason.INFRASTRUCTURE),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, AbsenceReason.OVERLOADED),
        (grpc.StatusCode.DEADLINE_EXCEEDED, AbsenceReason.DEADLINE),
    ],
)
def test_bad_luck_of_a_chunk_is_absences_of_its_items(fake: Any, call: Call, code: grpc.StatusCode, reason: AbsenceReason) -> None:
    fake.hook = aborting(code, "s3")
    scores = call(fake.address, "score", samples(6), client={"chunk_items": 2, "channel_options": NO_RETRIES})
    assert [score.value for score in scores] == [0, 1, None, None, 4, 5]
    absences = [score.absence for score in scores if score.absence]
    assert [(absence.reason, absence.retryable) for absence in absences] == [(reason, True)] * 2
    assert "as told" in absences[0].detail


def test_nobody_there_is_absences(call: Call) -> None:
    (score,) = call("127.0.0.1:1", "score", samples(1), client={"channel_options": NO_RETRIES})
    assert score.value is None
    assert score.absence.reason is AbsenceReason.INFRASTRUCTURE


def test_deadline_of_the_call_covers_all_chunks(fake: Any, call: Call) -> None:
    fake.hook = lambda request, context: time.sleep(0.2)
    started = time.monotonic()
    scores = call(fake.address, "score", samples(20), timeout_s=0.5, client={"chunk_items": 1, "concurrency": 1})
    assert time.monotonic() - started < 2
    assert scores[0].value == 0
    assert scores[-1].absence.reason is AbsenceReason.DEADLINE


@pytest.mark.parametrize("code", ["INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED", "FAILED_PRECONDITION", "INTERNAL"])
def test_mistakes_raise(fake: Any, call: Call, code: str) -> None:
    fake.hook = aborting(grpc.StatusCode[code], "s3")
    with pytest.raises(CallFailed, match="as told") as caught:
        call(fake.address, "score", samples(6), client={"chunk_items": 2})
    assert caught.value.code is grpc.StatusCode[code]
    assert not caught.value.transient


def test_rich_status_is_read(fake: Any, call: Call) -> None:
    def hook(request: Any, context: grpc.ServicerContext) -> None:
        details = any_pb2.Any(), any_pb2.Any()
        violation = error_details_pb2.BadRequest.FieldViolation(field="samples[0].id", description="is odd")
        details[0].Pack(error_details_pb2.BadRequest(field_violations=[violation]))
        details[1].Pack(error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(nanos=500_000_000)))
        context.abort_with_status(rpc_status.to_status(status_pb2.Status(code=3, message="bad", details=details)))

    fake.hook = hook
    with pytest.raises(CallFailed, match=r"INVALID_ARGUMENT: bad \(samples\[0\].id: is odd\)") as caught:
        call(fake.address, "score", samples(1))
    assert caught.value.violations == (Violation("samples[0].id", "is odd"),)
    assert caught.value.retry_after_s == 0.5


def test_a_message_over_the_limit_is_no_overload(fake: Any, call: Call) -> None:
    with pytest.raises(CallFailed, match="larger than max"):
        call(fake.address, "score", [sample("a", "p", "x" * 5000)], client={"channel_options": ChannelOptions(max_message_bytes=1000)})


def test_metadata(fake: Any, call: Call) -> None:
    call(fake.address, "score", samples(2), client={"tenant": "blue", "priority": "BATCH", "chunk_items": 1})
    first, second = fake.metadata
    assert len(first["x-request-id"]) == 32
    assert first["x-request-id"] == second["x-request-id"]
    assert (first["x-tenant"], first["x-priority"]) == ("blue", "BATCH")
    call(fake.address, "score", samples(1), metadata={"X-Request-Id": "mine", "traceparent": "00-1"})
    assert (fake.metadata[-1]["x-request-id"], fake.metadata[-1]["traceparent"]) == ("mine", "00-1")
    assert "x-tenant" not in fake.metadata[-1]


def test_model_beside_options_replaces_theirs(fake: Any, call: Call) -> None:
    options = reward_service_pb2.ScoreOptions(model=common_pb2.ModelRef(name="old", version=3), seed=7)
    call(fake.address, "score", samples(1), options=options, model="new")
    sent = fake.requests[0].options
    assert (sent.model.name, sent.model.version, sent.seed) == ("new", 0, 7)
    assert options.model.name == "old"


def test_groups_are_never_split_and_order_is_kept(fake: Any, call: Call) -> None:
    items = [sample(f"s{index}", "p", "x" * index, group_id=f"g{index % 3}" if index < 9 else "") for index in range(12)]
    result = call(fake.address, "evaluate", items, program="quality", pins={"length": "rm"}, client={"chunk_items": 4})
    assert [evaluation.value for evaluation in result.evaluations] == list(range(12))
    assert result.program_fingerprint == "f00"
    assert result.evaluations[5].components["length"].value == 5
    chunk_of: dict[str, set[int]] = {}
    for number, request in enumerate(fake.requests):
        for item in request.samples:
            chunk_of.setdefault(item.group_id or item.id, set()).add(number)
        assert request.options.program == "quality"
        assert request.options.pins["length"].name == "rm"
    assert len(fake.requests) == 4
    assert all(len(chunks) == 1 for chunks in chunk_of.values())


def test_verify_splits_no_group_either(fake: Any, call: Call) -> None:
    items = [sample(f"s{index}", "prompt", "x" * index, group_id=f"g{index % 3}") for index in range(12)]
    found = call(fake.address, "verify", items, "math", client={"chunk_items": 4})
    assert [verdict.sample_id for verdict in found] == [item.id for item in items]
    asked = [[each.group_id for each in request.samples] for request in fake.requests]
    assert sorted(asked) == [[f"g{group}"] * 4 for group in range(3)]


def test_absent_evaluations_advise_dropping(fake: Any, call: Call) -> None:
    fake.hook = aborting(grpc.StatusCode.UNAVAILABLE)
    result = call(fake.address, "evaluate", samples(2), client={"channel_options": NO_RETRIES})
    assert [(each.value, each.advice) for each in result.evaluations] == [(None, "DROP")] * 2


def test_verify_sends_options_and_reads_status(fake: Any, call: Call) -> None:
    items = [sample("a", "p", "4", references=["4"]), sample("b", "p", "5", references=["4"])]
    verdicts = call(fake.address, "verify", items, "exact", options={"strict": True, "ways": ["a"]})
    assert [(verdict.value, verdict.status) for verdict in verdicts] == [(1.0, "PASS"), (0.0, "FAIL")]
    assert fake.requests[0].options["strict"] is True
    assert [verifier.name for verifier in call(fake.address, "list_verifiers")] == ["exact"]


def test_compare_and_grade(fake: Any, call: Call) -> None:
    pairs = [pair("ab", "p", "longer", "short"), pair("ba", "p", "short", "longer")]
    found = call(fake.address, "compare", pairs, model="judge", both_orders=False, votes=3, client={"chunk_items": 1})
    assert [(each.pair_id, each.value) for each in found] == [("ab", 1.0), ("ba", 0.0)]
    sent = fake.requests[0]
    assert (sent.model.name, sent.votes, sent.orders) == ("judge", 3, judge_service_pb2.CompareOrders.COMPARE_ORDERS_AS_GIVEN)
    (grades,) = call(fake.address, "grade", samples(1), rubric="house")
    assert (grades.value, dict(grades.by_criterion)) == (0.75, {"clear": 4.0})
    nobody = {"channel_options": NO_RETRIES}
    assert call("127.0.0.1:1", "compare", pairs, client=nobody)[0].absence.reason is AbsenceReason.INFRASTRUCTURE
    assert call("127.0.0.1:1", "grade", samples(1), client=nobody)[0].value is None


def test_score_tokens_is_sequence_major(fake: Any, call: Call) -> None:
    sequences = [token_sequence(id, [1, 2], [3]) for id in "abc"]
    found = call(fake.address, "score_tokens", sequences, policies=["p", "q"], client={"chunk_items": 2})
    assert [(each.sequence_id, each.policy.name) for each in found] == [(id, policy) for id in "abc" for policy in "pq"]
    assert list(found[0].log_probs) == [-1.0]
    nobody = {"channel_options": NO_RETRIES}
    absent = call("127.0.0.1:1", "score_tokens", sequences, policies=["p", "q"], client=nobody)
    assert [(each.sequence_id, each.policy.name, each.value) for each in absent] == [(id, policy, None) for id in "abc" for policy in "pq"]


def test_rank(fake: Any, call: Call) -> None:
    groups = [rank_group(id, "prompt", ["a", "ccc", "bb"]) for id in "xyz"]
    found = call(fake.address, "rank", groups, model="j", template="t", client={"chunk_items": 2})
    assert [(each.group_id, each.order) for each in found] == [(id, (1, 2, 0)) for id in "xyz"]
    assert found[0].scores == pytest.approx((0.1, 0.3, 0.2))
    assert (fake.requests[0].model.name, fake.requests[0].template, fake.requests[0].method) == ("j", "t", 1)
    nobody = {"channel_options": NO_RETRIES}
    absent = call("127.0.0.1:1", "rank", groups, client=nobody)
    assert [(each.group_id, each.order, each.scores) for each in absent] == [(id, None, ()) for id in "xyz"]
    with pytest.raises(ValueError, match="at least 2"):
        rank_group("x", "prompt", ["alone"])
    with pytest.raises(ValueError, match="BEST"):
        call(fake.address, "rank", groups, method="BEST")
    with pytest.raises(ValueError, match="MEDIAN"):
        call(fake.address, "rank", groups, aggregation="MEDIAN")
    call(fake.address, "rank", groups, method="SPARSE", aggregation="ELO", pairs_per_answer=2, votes=3, temperature=0.5, seed=7)
    sent = fake.requests[-1]
    assert (sent.method, sent.aggregation, sent.pairs_per_answer) == (2, 4, 2)
    assert (sent.votes, sent.temperature, sent.seed) == (3, 0.5, 7)


def test_critique(fake: Any, call: Call) -> None:
    items = [sample(id, "prompt", f"words {id}") for id in "abc"]
    found = call(fake.address, "critique", items, template="t", want_revision=True, max_points=3, client={"chunk_items": 2})
    assert [(each.sample_id, each.text, each.revision) for each in found] == [(id, "7 letters", f"WORDS {id.upper()}") for id in "abc"]
    assert (fake.requests[0].template, fake.requests[0].want_revision, fake.requests[0].max_points) == ("t", True, 3)
    assert call(fake.address, "critique", items[:1])[0].revision is None
    (absent,) = call("127.0.0.1:1", "critique", items[:1], client={"channel_options": NO_RETRIES})
    assert (absent.sample_id, absent.text, absent.absence.reason) == ("a", None, AbsenceReason.INFRASTRUCTURE)


def test_score_suffixes(fake: Any, call: Call) -> None:
    prefixes = [token_prefix(id, [1] * length) for length, id in enumerate("abc", 1)]
    found = call(fake.address, "score_suffixes", prefixes, [[7], [8, 9]], policy="p", normalise="MEAN", client={"chunk_items": 2})
    assert [(each.prefix_id, list(each.values)) for each in found] == [("a", [-2, -3]), ("b", [-3, -4]), ("c", [-4, -5])]
    assert (fake.requests[0].policy.name, fake.requests[0].normalise) == ("p", 2)
    (absent,) = call("127.0.0.1:1", "score_suffixes", prefixes[:1], [[7]], client={"channel_options": NO_RETRIES})
    assert (absent.prefix_id, absent.values, absent.absence.reason) == ("a", None, AbsenceReason.INFRASTRUCTURE)
    with pytest.raises(ValueError, match="SUM or MEAN"):
        call(fake.address, "score_suffixes", prefixes, [[7]], normalise="MEDIAN")


def test_select_best_and_programs(fake: Any, call: Call) -> None:
    selection = call(fake.address, "select_best", samples(3))
    assert selection.best_sample_id == "s2"
    assert len(selection.evaluations) == 3
    assert call(fake.address, "list_programs") == ["a", "b"]
    fake.hook = aborting(grpc.StatusCode.UNAVAILABLE)
    assert call(fake.address, "select_best", samples(3), client={"channel_options": NO_RETRIES}).best_sample_id is None
    with pytest.raises(ValueError, match="no samples"):
        call(fake.address, "select_best", [])


def test_generate_fills_in_what_did_not_come(fake: Any, call: Call) -> None:
    request = generation_service_pb2.GenerateRequest(prompts=[generation_prompt("a", "hi"), generation_prompt("b", token_ids=[1])], n=2)
    generations = call(fake.address, "generate", request)
    assert [each.completion.text for each in generations] == ["a0", "a1", "b0", "b1"]

    def hook(request: Any, context: grpc.ServicerContext) -> None:
        if len(fake.requests) >= 4 + 3:
            context.abort(grpc.StatusCode.UNAVAILABLE, "gone")

    fake.hook = hook
    generations = call(fake.address, "generate", request)
    assert [(each.prompt_id, each.index, each.completion is None) for each in generations] == [
        ("a", 0, False),
        ("a", 1, False),
        ("b", 0, True),
        ("b", 1, True),
    ]


@pytest.mark.parametrize("fault", ["missing", "swapped", "empty", "unknown reason"])
def test_a_server_that_breaks_the_contract_is_an_error(fake: Any, call: Call, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(response: Any) -> bytes:
        if fault == "missing":
            del response.outcomes[0]
        elif fault == "swapped":
            response.outcomes.reverse()
        elif fault == "empty":
            response.outcomes[0].ClearField("reward")
        else:
            response.outcomes[0].absence.reason = 99
        return bytes(response.SerializeToString())

    handler = grpc.unary_unary_rpc_method_handler(
        lambda request, context: reward_service_pb2.ScoreResponse(
            outcomes=[common_pb2.Outcome(sample_id=item.id, reward=common_pb2.Reward(value=1)) for item in request.samples]
        ),
        reward_service_pb2.ScoreRequest.FromString,
        broken,
    )
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("rewardmesh.v1.RewardService", {"Score": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with pytest.raises(CallFailed) as caught:
            call(f"127.0.0.1:{port}", "score", samples(2))
        assert caught.value.code is grpc.StatusCode.INTERNAL
    finally:
        server.stop(None).wait(10)


def test_one_client_many_threads(fake: Any) -> None:
    failures: list[str] = []
    with Client(fake.address, chunk_items=3) as client:

        def work() -> None:
            for _ in range(5):
                if [score.value for score in client.score(samples(10))] != list(range(10)):
                    failures.append("wrong")

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert not failures
    assert len(fake.requests) == 8 * 5 * 4


async def test_cancelling_a_batch_cancels_its_chunks(fake: Any) -> None:
    cancelled = threading.Event()

    def hook(request: Any, context: grpc.ServicerContext) -> None:
        context.add_callback(cancelled.set)
        cancelled.wait(10)

    fake.hook = hook
    async with AsyncClient(fake.address, chunk_items=1) as client:
        task = asyncio.ensure_future(client.score(samples(2)))
        while not fake.requests:  # noqa: ASYNC110 - the server is a thread
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(cancelled.wait, 5)


async def test_raw_stubs(fake: Any) -> None:
    async with AsyncClient(fake.address, tenant="blue") as client:
        reply = await client.mesh.Evaluate(mesh_service_pb2.EvaluateRequest(samples=samples(1)), metadata=client.metadata())
        assert len(reply.evaluations) == 1
        assert fake.metadata[0]["x-tenant"] == "blue"


def test_both_clients_have_the_same_methods() -> None:
    def surface(client: type) -> dict[str, list[str]]:
        methods = inspect.getmembers(client, inspect.isfunction)
        return {name: list(inspect.signature(method).parameters) for name, method in methods if not name.startswith("_")}

    assert surface(Client) == surface(AsyncClient)


@pytest.mark.parametrize("wrong", [{"chunk_items": 0}, {"concurrency": 0}])
def test_settings_are_checked(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Client("127.0.0.1:1", **wrong)  # type: ignore[arg-type]
