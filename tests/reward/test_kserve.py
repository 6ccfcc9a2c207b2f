"""The Open Inference Protocol on a reward server, asked by NVIDIA's own client: a server process, real sockets."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast
from tritonclient import grpc as triton
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from rewardmesh.client import Client, sample
from rewardmesh.reward.kserve import _Caller
from rewardmesh.serving.context import Priority, priority
from rewardmesh.serving.raw import TEMPLATE_TAG, raw_sample

PROMPT = "How many apples does Ann have?"
COMPLETIONS = ["12 + 7 = 19", "The answer is 21.", "The quick brown fox", "T"]


@dataclass
class Served:
    """A reward server's process with our client and NVIDIA's."""

    path: Path
    address: str
    ours: Client
    theirs: Any


@pytest.fixture(scope="module")
def serve_process() -> Iterator[Callable[..., Served]]:
    processes: list[subprocess.Popen[bytes]] = []
    clients: list[Any] = []
    readers: list[threading.Thread] = []

    def start(path: Path, *flags: str) -> Served:
        command = [sys.executable, "-m", "rewardmesh.cli", "serve", "reward", "--model", str(path), "--name", "tiny"]
        process = subprocess.Popen([*command, "--threads", "1", "--log-format", "json", *flags], stderr=subprocess.PIPE)
        processes.append(process)
        assert process.stderr
        for line in process.stderr:
            event = json.loads(line)
            if event["event"] == "serving":
                break
        else:
            pytest.fail("the server ended before it served")
        # A pipe that nobody reads would hold the server up.
        reader = threading.Thread(target=process.stderr.read, daemon=True)
        reader.start()
        readers.append(reader)
        ours, theirs = Client(event["address"]), triton.InferenceServerClient(event["address"])
        clients.extend((ours, theirs))
        return Served(path, event["address"], ours, theirs)

    yield start
    for client in clients:
        client.close()
    for process in processes:
        process.terminate()
        assert process.wait(30) == 0
    for reader, process in zip(readers, processes, strict=True):
        reader.join(10)
        assert process.stderr
        process.stderr.close()


@pytest.fixture(scope="module")
def served(serve_process: Callable[..., Served], reward_model: Path) -> Served:
    return serve_process(reward_model)


def bytes_tensor(name: str, texts: list[str], shape: list[int] | None = None) -> Any:
    tensor = triton.InferInput(name, shape or [len(texts)], "BYTES")
    tensor.set_data_from_numpy(np.array([text.encode() for text in texts], dtype=np.object_).reshape(shape or [len(texts)]))
    return tensor


def number_tensor(name: str, values: Any, dtype: str = "INT32") -> Any:
    array: Any = np.array(values, {"INT32": np.int32, "INT64": np.int64, "BOOL": np.bool_}[dtype])
    tensor = triton.InferInput(name, list(array.shape), dtype)
    tensor.set_data_from_numpy(array)
    return tensor


def scores(served: Served, *inputs: Any, **options: Any) -> Any:
    result = served.theirs.infer("tiny", list(inputs), **options)
    assert not result.as_numpy("absent").any(), result.as_numpy("absence")
    return result.as_numpy("score")


def wanted(served: Served, completions: list[str] = COMPLETIONS, prompt: Any = PROMPT) -> list[float]:
    values = [score.value for score in served.ours.score([sample(str(i), prompt, text) for i, text in enumerate(completions)])]
    assert None not in values
    return values  # type: ignore[return-value]


def test_prompt_and_completion_score_as_over_our_own_service(served: Served) -> None:
    got = scores(served, bytes_tensor("prompt", [PROMPT] * 4), bytes_tensor("completion", COMPLETIONS))
    assert (got.shape, got.dtype) == ((4, 1), np.float32)
    np.testing.assert_allclose(got[:, 0], wanted(served), atol=1e-6)
    one_for_all = scores(served, bytes_tensor("prompt", [PROMPT]), bytes_tensor("completion", COMPLETIONS, [4, 1]))
    np.testing.assert_allclose(one_for_all, got, atol=1e-6)


def test_a_prompt_may_be_a_dialogue_as_json(served: Served) -> None:
    turns = [{"role": "system", "content": "Grade the answer."}, {"role": "user", "content": "Which fox?"}]
    got = scores(served, bytes_tensor("prompt", [json.dumps(turns)]), bytes_tensor("completion", COMPLETIONS))
    dialogue = [(turn["role"], turn["content"]) for turn in turns]
    np.testing.assert_allclose(got[:, 0], wanted(served, prompt=dialogue), atol=1e-6)
    for plain in ("[1, 2, 3]", "[", "[]", '["role"]'):
        got = scores(served, bytes_tensor("prompt", [plain]), bytes_tensor("completion", ["T"]))
        np.testing.assert_allclose(got[:, 0], wanted(served, ["T"], plain), atol=1e-6)


def test_text_is_read_as_it_is(served: Served) -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(served.path)
    texts = [
        tokenizer.apply_chat_template([{"role": "user", "content": PROMPT}, {"role": "assistant", "content": completion}], tokenize=False)
        for completion in COMPLETIONS
    ]
    np.testing.assert_allclose(scores(served, bytes_tensor("text", texts))[:, 0], wanted(served), atol=1e-6)


def test_token_ids_with_lengths_or_a_mask(served: Served) -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(served.path)
    rows = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": PROMPT}, {"role": "assistant", "content": completion}], tokenize=True, return_dict=False
        )
        for completion in COMPLETIONS
    ]
    width = max(map(len, rows))
    right = [row + [0] * (width - len(row)) for row in rows]
    left = [[0] * (width - len(row)) + row for row in rows]
    values = wanted(served)
    lengths = number_tensor("lengths", [len(row) for row in rows])
    np.testing.assert_allclose(scores(served, number_tensor("input_ids", right), lengths)[:, 0], values, atol=1e-6)
    for padded, dtype in ((right, "INT64"), (left, "BOOL")):
        mask = [[1] * len(row) + [0] * (width - len(row)) for row in rows]
        if padded is left:
            mask = [seen[::-1] for seen in mask]
        got = scores(served, number_tensor("input_ids", padded, "INT64"), number_tensor("attention_mask", mask, dtype))
        np.testing.assert_allclose(got[:, 0], values, atol=1e-6)
    alone = scores(served, number_tensor("input_ids", [rows[0]]))
    np.testing.assert_allclose(alone[:, 0], values[:1], atol=1e-6)


def test_raw_samples_over_our_own_service(served: Served) -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(served.path)
    head = tokenizer.apply_chat_template([{"role": "user", "content": PROMPT}], tokenize=False, add_generation_prompt=True)
    split = [raw_sample(str(i), text + tokenizer.eos_token, prompt=head) for i, text in enumerate(COMPLETIONS)]
    whole = [raw_sample(str(i), head + text + tokenizer.eos_token) for i, text in enumerate(COMPLETIONS)]
    for samples in (split, whole):
        assert [score.value for score in served.ours.score(samples)] == pytest.approx(wanted(served), abs=1e-6)
    problems = [
        raw_sample("empty", ""),
        raw_sample("stranger", "", token_ids=[10**6]),
        raw_sample("negative", "", token_ids=[-1]),
        raw_sample("none", "", token_ids=[]),
        sample("word", [], "T", tags={TEMPLATE_TAG: "mine"}),
    ]
    for score in served.ours.score(problems):
        assert score.value is None
        assert score.absence is not None
        assert score.absence.reason == "INVALID_INPUT", score


def test_an_absent_score_is_nan_and_says_why(served: Served) -> None:
    result = served.theirs.infer("tiny", [bytes_tensor("prompt", [PROMPT] * 2), bytes_tensor("completion", ["", "T"])])
    assert np.isnan(result.as_numpy("score")[0, 0])
    assert result.as_numpy("score")[1, 0] == pytest.approx(wanted(served, ["T"])[0], abs=1e-6)
    assert result.as_numpy("absent").tolist() == [True, False]
    lost, present = result.as_numpy("absence")
    assert present == b""
    assert json.loads(lost)["reason"] == "INVALID_INPUT"
    long = served.theirs.infer("tiny", [bytes_tensor("text", ["x " * 2000])])
    assert json.loads(long.as_numpy("absence")[0])["reason"] == "TOO_LONG"


def test_it_says_what_it_is(served: Served) -> None:
    client = served.theirs
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("tiny")
    assert client.is_model_ready("tiny", "1")
    assert not client.is_model_ready("tiny", "2")
    assert not client.is_model_ready("other")
    assert client.get_server_metadata().name == "rewardmesh"
    about = client.get_model_metadata("tiny")
    assert (about.name, list(about.versions)) == ("tiny", ["1"])
    assert {each.name: each.datatype for each in about.outputs} == {"score": "FP32", "absent": "BOOL", "absence": "BYTES"}
    config = client.get_model_config("tiny").config
    assert [each.name for each in config.input] == [each.name for each in about.inputs]
    assert all(each.optional for each in config.input)
    assert [(each.name, each.version, each.state) for each in client.get_model_repository_index().models] == [("tiny", "1", "READY")]


def test_outputs_versions_and_ids_as_asked(served: Served) -> None:
    inputs = [bytes_tensor("prompt", [PROMPT]), bytes_tensor("completion", ["T"])]
    wanted_outputs = [triton.InferRequestedOutput("absent"), triton.InferRequestedOutput("score")]
    result = served.theirs.infer("tiny", inputs, model_version="1", request_id="r-7", outputs=wanted_outputs, priority=1, timeout=5_000_000)
    response = result.get_response()
    assert ([each.name for each in response.outputs], response.id, response.model_version) == (["absent", "score"], "r-7", "1")
    late = served.theirs.infer("tiny", [bytes_tensor("text", ["that nobody asked before, nor waits for"])], timeout=1)
    assert late.as_numpy("absent").tolist() == [True]
    assert json.loads(late.as_numpy("absence")[0])["reason"] == "DEADLINE"


@pytest.mark.parametrize(
    ("inputs", "options", "code", "message"),
    [
        ([], {}, "INVALID_ARGUMENT", "inputs: are none; send prompt and completion, or text, or input_ids"),
        ([bytes_tensor("prompt", ["a"])], {}, "INVALID_ARGUMENT", "inputs: are prompt"),
        ([bytes_tensor("text", ["a"]), bytes_tensor("prompt", ["a"])], {}, "INVALID_ARGUMENT", "are text, prompt"),
        ([bytes_tensor("words", ["a"])], {}, "INVALID_ARGUMENT", "inputs[words]: is no input of the model"),
        ([number_tensor("text", [1])], {}, "INVALID_ARGUMENT", "inputs[text].datatype: 'INT32' is not BYTES"),
        ([bytes_tensor("text", ["a"]), bytes_tensor("text", ["a"])], {}, "INVALID_ARGUMENT", "inputs[text]: is given twice"),
        ([bytes_tensor("text", ["a", "b"], [1, 2])], {}, "INVALID_ARGUMENT", "inputs[text].shape: [1, 2] is not [n]"),
        ([bytes_tensor("prompt", ["a"] * 2), bytes_tensor("completion", ["b"] * 3)], {}, "INVALID_ARGUMENT", "2 prompts for 3 completions"),
        ([bytes_tensor("prompt", ['[{"role": "me", "content": ""}]']), bytes_tensor("completion", ["b"])], {}, "INVALID_ARGUMENT", "'me'"),
        ([number_tensor("input_ids", [1, 2])], {}, "INVALID_ARGUMENT", "inputs[input_ids].shape: [2] is not [n, L]"),
        ([number_tensor("input_ids", [[2**40]], "INT64")], {}, "INVALID_ARGUMENT", "holds a number that is no token id"),
        ([number_tensor("input_ids", [[1]]), number_tensor("lengths", [2])], {}, "INVALID_ARGUMENT", "inputs[lengths][0]"),
        (
            [number_tensor("input_ids", [[1]]), number_tensor("attention_mask", [[1, 1]])],
            {},
            "INVALID_ARGUMENT",
            "inputs[attention_mask].shape",
        ),
        ([bytes_tensor("text", ["a"])], {"model_version": "7"}, "NOT_FOUND", "known: 1"),
        ([bytes_tensor("text", ["a"])], {"model_version": "new"}, "INVALID_ARGUMENT", "model_version"),
        ([bytes_tensor("text", ["a"])], {"outputs": [triton.InferRequestedOutput("logits")]}, "INVALID_ARGUMENT", "outputs[logits]"),
        (
            [bytes_tensor("text", ["a"])],
            {"outputs": [triton.InferRequestedOutput("score", class_count=2)]},
            "UNIMPLEMENTED",
            "classification",
        ),
    ],
)
def test_what_is_wrong_is_refused_and_named(served: Served, inputs: list[Any], options: Any, code: str, message: str) -> None:
    with pytest.raises(InferenceServerException) as caught:
        served.theirs.infer("tiny", inputs, **options)
    assert caught.value.status() == f"StatusCode.{code}"
    assert message in caught.value.message()


def test_other_models_and_methods_are_refused(served: Served) -> None:
    with pytest.raises(InferenceServerException, match="known: tiny"):
        served.theirs.infer("other", [bytes_tensor("text", ["a"])])
    with pytest.raises(InferenceServerException) as caught:
        served.theirs.get_inference_statistics()
    assert caught.value.status() == "StatusCode.UNIMPLEMENTED"


def test_typed_contents_are_answered_in_kind(served: Served) -> None:
    with grpc.insecure_channel(served.address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)

        def ask(**contents: Any) -> Any:
            request = service_pb2.ModelInferRequest(model_name="tiny")
            tensor = request.inputs.add(name="text", datatype="BYTES", shape=[2])
            for field, values in contents.items():
                getattr(tensor.contents, field).extend(values)
            return stub.ModelInfer(request, timeout=20)

        response = ask(bytes_contents=[b"a", b"T"])
        assert not response.raw_output_contents
        assert list(response.outputs[1].contents.bool_contents) == [False, False]
        np.testing.assert_allclose(
            response.outputs[0].contents.fp32_contents, scores(served, bytes_tensor("text", ["a", "T"]))[:, 0], atol=1e-6
        )
        for contents, message in (
            ({"bytes_contents": [b"a"]}, "stands for 2 elements, there are 1"),
            ({"int_contents": [1, 2]}, "belong into bytes_contents, not int_contents"),
            ({"bytes_contents": [b"a", b"\xff"]}, r"inputs\[text\]\[1\]: is not UTF-8"),
        ):
            with pytest.raises(grpc.RpcError, match=message):
                ask(**contents)
        broken = service_pb2.ModelInferRequest(model_name="tiny", raw_input_contents=[b"\x05\x00\x00\x00ab"])
        broken.inputs.add(name="text", datatype="BYTES", shape=[1])
        with pytest.raises(grpc.RpcError, match=r"inputs\[text\]: element 0 has 5 bytes, 2 are left"):
            stub.ModelInfer(broken, timeout=20)


def test_a_stream_is_answered_in_order(served: Served) -> None:
    got: queue.Queue[Any] = queue.Queue()
    with triton.InferenceServerClient(served.address) as client:
        client.start_stream(callback=lambda result, error: got.put((result, error)))
        for number in range(20):
            text = COMPLETIONS[number % 4]
            inputs = [bytes_tensor("prompt", [PROMPT]), bytes_tensor("completion" if number != 7 else "completions", [text])]
            client.async_stream_infer("tiny", inputs, request_id=str(number))
        values = wanted(served)
        for number in range(20):
            result, error = got.get(timeout=30)
            if number == 7:
                assert "inputs[completions]" in str(error)
                continue
            assert error is None
            assert result.get_response().id == str(number)
            assert result.as_numpy("score")[0, 0] == pytest.approx(values[number % 4], abs=1e-6)
        for _ in range(3):  # one at a time: an answer must not wait for the next request
            client.async_stream_infer("tiny", [bytes_tensor("text", ["T"])])
            result, error = got.get(timeout=30)
            assert error is None
        client.stop_stream()


REQUESTS = st.fixed_dictionaries(
    {
        "model_name": st.sampled_from(["tiny", "tiny", "tiny", "", "other"]),
        "model_version": st.sampled_from(["", "", "1", "2", "x", "9" * 30]),
        "inputs": st.lists(
            st.tuples(
                st.sampled_from(["prompt", "completion", "text", "input_ids", "lengths", "attention_mask", "x"]),
                st.sampled_from(["BYTES", "INT32", "INT64", "BOOL", "FP32", ""]),
                st.lists(st.integers(-1, 3), max_size=3),
            ),
            max_size=3,
        ),
        "raw": st.none() | st.lists(st.binary(max_size=12), max_size=3),
        "parameters": st.dictionaries(st.sampled_from(["priority", "timeout", "x"]), st.integers(-1, 4) | st.text(max_size=2), max_size=2),
    }
)


def test_no_request_is_a_fault_of_the_server(served: Served) -> None:
    known = {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}
    with grpc.insecure_channel(served.address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)

        @settings(max_examples=200, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
        @given(REQUESTS)
        def ask(content: dict[str, Any]) -> None:
            request = service_pb2.ModelInferRequest(model_name=content["model_name"], model_version=content["model_version"])
            for name, datatype, shape in content["inputs"]:
                tensor = request.inputs.add(name=name, datatype=datatype, shape=shape)
                if content["raw"] is None:
                    tensor.contents.bytes_contents.extend([b"a", b"[]", b"\xff"][: sum(shape)])
            request.raw_input_contents.extend(content["raw"] or [])
            for name, value in content["parameters"].items():
                if isinstance(value, str):
                    request.parameters[name].string_param = value
                else:
                    request.parameters[name].int64_param = value
            try:
                response = stub.ModelInfer(request, timeout=20)
            except grpc.RpcError as error:
                if error.code() not in known:
                    raise
            else:
                assert len(response.outputs) == 3

        ask()


def test_priorities_of_the_protocol_are_ours() -> None:
    def caller(sent: str | None, **parameters: int) -> Any:
        request = service_pb2.ModelInferRequest()
        for name, value in parameters.items():
            request.parameters[name].uint64_param = value

        class Context:
            def invocation_metadata(self) -> Any:
                return (("x-priority", sent),) if sent else ()

        return _Caller(Context(), request.parameters)  # type: ignore[arg-type]

    wanted = {1: Priority.INTERACTIVE, 2: Priority.TRAINING, 3: Priority.BATCH, 100: Priority.BATCH}
    for level, mine in wanted.items():
        assert priority(caller("BATCH", priority=level)) is mine
        assert priority(caller(None, priority=level)) is mine
    assert priority(caller("INTERACTIVE", priority=0)) is Priority.INTERACTIVE
    assert priority(caller(None)) is Priority.TRAINING


def test_a_head_with_several_outputs(serve_process: Callable[..., Served], vector_model: Path) -> None:
    served = serve_process(vector_model)
    got = scores(served, bytes_tensor("prompt", [PROMPT]), bytes_tensor("completion", COMPLETIONS))
    ours = served.ours.score([sample(str(i), PROMPT, text) for i, text in enumerate(COMPLETIONS)])
    np.testing.assert_allclose(got, [list(score.objectives.values()) for score in ours], atol=1e-6)
