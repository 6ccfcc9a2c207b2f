"""`engine: vllm-server` when the server misbehaves; the real one is in tests/engines."""

from __future__ import annotations

import base64
import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rewardmesh.engine.foreign import RefusedError
from rewardmesh.engine.interface import NotSupportedError
from rewardmesh.engine.loading import LoadError
from rewardmesh.engine.log_probs import Extra
from rewardmesh.engine.sampling import Sampled, SamplingOptions
from rewardmesh.engine.vllm.rows import Row, row_seed, rows_of
from rewardmesh.engine.vllm.server import VllmServer, VllmServerOptions, served_model
from rewardmesh.engine.vllm.statistics import statistics_from
from rewardmesh.serving.errors import ItemsLostError
from rewardmesh.v1 import common_pb2 as pb

from .scripted_server import Answer, scripted

BAD_TOKEN = 13
MARGIN: tuple[Extra, ...] = ("margin",)
OPTIONS = SamplingOptions(n=1, temperature=0.5, top_p=1.0, top_k=0, max_tokens=4, seed=0, eos_ids=(1,))


def pooled(body: Any, outputs: int = 1) -> Answer:
    """A pooling answer: each sequence's score is its length, NaN for an empty sequence."""
    if any(BAD_TOKEN in ids for ids in body["input"]):
        return Answer({"error": {"message": "token 13 is not welcome"}}, 400)
    values = [np.full(outputs, len(ids) if ids[0] != 99 else np.nan, "<f4") for ids in body["input"]]
    data = [{"index": n, "data": base64.b64encode(row.tobytes()).decode()} for n, row in enumerate(values)]
    return Answer({"data": data[::-1]})


class Server:
    """Answers as a vLLM server with one model; `pooling` answers /pooling."""

    def __init__(self, source: Path, pooling: Callable[[Any], Answer] = pooled) -> None:
        self.source = source
        self.pooling = pooling

    def __call__(self, path: str, body: Any) -> Answer:
        if path == "/v1/models":
            return Answer({"data": [{"id": "tiny", "root": str(self.source), "max_model_len": 64}]})
        if path == "/pooling":
            return self.pooling(body)
        top = {f"token_id:{token}": -math.log(5) for token in range(5)}  # raw: the temperature changes nothing
        return Answer({"choices": [{"index": n, "logprobs": {"top_logprobs": [top]}} for n in range(len(body["prompt"]))]})


def opened(address: str, source: Path, kind: Any = "classification", **options: Any) -> VllmServer:
    return VllmServer(str(source), kind, address=address, options=VllmServerOptions(**({"tries": 1} | options)), name="m", version=1)


def test_a_batch_is_cut_and_one_bad_item_costs_only_itself(reward_model: Path) -> None:
    sequences = [[5] * length for length in range(1, 8)] + [[BAD_TOKEN]]
    with scripted(Server(reward_model)) as server:
        model = opened(server.address, reward_model, items_per_request=4, max_concurrency=2)
        server.requests.clear()
        assert [values for values, _ in model.scores(sequences[:-1])] == [[length] for length in range(1, 8)]
        sizes = [len(body["input"]) for _, body, _ in server.requests]
        assert sorted(sizes) == [3, 4]
        assert all(body["use_activation"] is False for _, body, _ in server.requests)
        with pytest.raises(ItemsLostError) as error:
            model.scores(sequences)
        model.close()
    *kept, lost = error.value.results
    assert [values for values, _ in kept] == [[float(length)] for length in range(1, 8)]
    assert (lost.reason, lost.retryable) == (pb.ABSENCE_REASON_INFRASTRUCTURE, False)
    assert "not welcome" in lost.detail


def test_nan_arrives_as_nan(reward_model: Path) -> None:
    with scripted(Server(reward_model)) as server:
        model = opened(server.address, reward_model)
        [([value], tokens)] = model.scores([[99, 5]])
        model.close()
    assert math.isnan(value)
    assert tokens == 2


@pytest.mark.parametrize(
    ("answer", "reason", "retryable"),
    [
        (Answer({"error": {"message": "busy"}}, 503, {"Retry-After": "9"}), pb.ABSENCE_REASON_OVERLOADED, True),
        (Answer("<html>"), pb.ABSENCE_REASON_INFRASTRUCTURE, False),
        (Answer({"data": []}), pb.ABSENCE_REASON_INFRASTRUCTURE, False),
        (Answer({"data": [{"index": 0, "data": "AAAAAAAAAAA="}]}), pb.ABSENCE_REASON_INFRASTRUCTURE, False),
        (Answer(None, delay_s=0.6), pb.ABSENCE_REASON_INFRASTRUCTURE, True),
    ],
    ids=["busy", "garbage", "too few", "too many outputs", "silent"],
)
def test_what_a_server_can_do_wrong(reward_model: Path, answer: Answer, reason: pb.AbsenceReason.ValueType, retryable: bool) -> None:
    script = Server(reward_model)
    with scripted(script) as server:
        model = opened(server.address, reward_model, timeout_s=0.3)
        script.pooling = lambda body: answer
        with pytest.raises(ItemsLostError) as error:
            model.scores([[5]])
        model.close()
    [lost] = error.value.absences
    assert (lost.reason, lost.retryable) == (reason, retryable), lost


def test_a_head_with_other_outputs_is_refused(reward_model: Path) -> None:
    with (
        scripted(Server(reward_model, lambda body: pooled(body, 2))) as server,
        pytest.raises(LoadError, match="not served as a classification model"),
    ):
        opened(server.address, reward_model)


def test_a_server_with_raw_log_probs_samples_at_temperature_1_only(causal_model: Path) -> None:
    emitted: list[Sampled] = []
    with scripted(Server(causal_model)) as server:
        model = opened(server.address, causal_model, "causal")
        assert model.max_tokens == 63, "one token is always written"
        with pytest.raises(NotSupportedError, match="processed_logprobs") as error:
            model.sample([[5]], OPTIONS, emitted.append, row_keys=["a"])
        model.close()
    assert isinstance(error.value, RefusedError)
    assert error.value.absences[0].reason == pb.ABSENCE_REASON_NOT_APPLICABLE
    assert not emitted


def test_a_sampling_call_can_be_broken_off(causal_model: Path) -> None:
    cancelled = threading.Event()
    cancelled.set()
    with scripted(Server(causal_model)) as server:
        model = opened(server.address, causal_model, "causal")
        one = SamplingOptions(n=2, temperature=1.0, top_p=1.0, top_k=0, max_tokens=4, seed=0, eos_ids=(1,))
        model.sample([[5]], one, lambda sampled: None, row_keys=["a"], cancelled=cancelled)
        model.close()


def test_which_of_the_served_models_is_meant() -> None:
    served = [{"id": "a", "root": "/models/a"}, {"id": "b", "root": "/models/b"}]
    assert served_model(served, "/models/b/", "", True)["id"] == "b"
    assert served_model(served, "elsewhere", "a", True)["id"] == "a"
    assert served_model(served[:1], "elsewhere", "", True)["id"] == "a", "one model is taken at its word"
    for first, wanted, entries in ((False, "", served[:1]), (True, "", served), (True, "c", served)):
        with pytest.raises(LoadError, match="the server serves a"):
            served_model(entries, "elsewhere", wanted, first)


def test_rows_have_seeds_of_their_own_and_fit_the_context() -> None:
    options = SamplingOptions(n=2, temperature=1.0, top_p=1.0, top_k=0, max_tokens=50, seed=7, eos_ids=())
    rows = rows_of([[1, 2], [3]], options, ["x", "y"], context=20)
    assert [(row.prompt, row.index, row.max_tokens) for row in rows] == [(0, 0, 18), (0, 1, 18), (1, 0, 19), (1, 1, 19)]
    assert len({row.seed for row in rows}) == 4
    assert rows[0].seed == row_seed(7, "x", 0) < 2**63


def test_a_completion_is_cut_where_the_stop_rule_ends_it() -> None:
    row = Row(0, 1, [1], 9, 0)
    cut = row.sampled([5, 6, 7], [-1.0, -2.0, -3.0], None, lambda ids: ids[-1] == 6)
    assert (cut.token_ids, cut.log_probs, cut.finish) == ([5, 6], [-1.0, -2.0], "stop")
    assert row.sampled([5, 6], [-1.0, -2.0], "length").finish == "length"
    assert row.sampled([5, 1], [-1.0, -2.0], "stop").finish == "stop"
    assert row.sampled([5], [-9999.0], "length").finish == "non_finite"
    with pytest.raises(ValueError, match="2 tokens with 1"):
        row.sampled([5, 6], [-1.0], "length")


def test_likeliest_tokens_and_margin() -> None:
    stats = statistics_from([(-3.0, {4: -3.0, 7: -0.5, 9: -1.25})], extras=MARGIN, top_k=1)
    assert stats.log_probs.tolist() == [-3.0]
    assert stats.margin is not None
    assert stats.margin.tolist() == [0.75]
    assert stats.top_ids is not None
    assert stats.top_ids.tolist() == [[7]]
    with pytest.raises(ValueError, match="1 likeliest"):
        statistics_from([(-3.0, {4: -3.0})], extras=MARGIN, top_k=0)
