"""Tensor mappings of `engine: triton` without a server: what is sent, what is read, what is refused, how much is in flight."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import model_config_pb2, service_pb2

from rewardmesh.engine.loading import LoadError
from rewardmesh.engine.triton import TritonModel
from rewardmesh.engine.triton_mapping import Mapping, TritonOptions
from rewardmesh.serving.errors import ItemsLostError
from rewardmesh.v1 import common_pb2 as pb

Tensors = list[tuple[str, str, list[int]]]
IDS: Tensors = [("input_ids", "INT32", [-1, -1]), ("attention_mask", "BOOL", [-1, -1])]
LOGITS: Tensors = [("logits", "FP32", [-1, 1])]


def metadata(inputs: Tensors, outputs: Tensors = LOGITS) -> Any:
    message = service_pb2.ModelMetadataResponse()
    for field, tensors in ((message.inputs, inputs), (message.outputs, outputs)):
        for name, datatype, shape in tensors:
            field.add(name=name, datatype=datatype, shape=shape)
    return message


def mapping(inputs: Tensors, outputs: Tensors = LOGITS, *, heads: int = 1, config: Any = None, **options: Any) -> Mapping:
    given = TritonOptions(**{"model_name": "m", "output_is": "logit", **options})
    return Mapping.of(given, metadata(inputs, outputs), config, heads)


def test_rows_are_padded_and_typed_as_the_server_states() -> None:
    fits = mapping([*IDS, ("n", "INT64", [-1, 1])], lengths="n")
    tensors = fits.inputs([[5, 6, 7], [8]], pad_id=9)
    assert tensors["input_ids"].dtype == np.int32
    assert tensors["input_ids"].tolist() == [[5, 6, 7], [8, 9, 9]]
    assert tensors["attention_mask"].tolist() == [[True, True, True], [True, False, False]]
    assert tensors["n"].tolist() == [[3], [1]]


def test_a_fixed_length_is_filled() -> None:
    fits = mapping([("input_ids", "INT64", [-1, 6]), ("attention_mask", "INT64", [-1, 6])])
    assert fits.width == 6
    assert fits.inputs([[5, 6]], pad_id=0)["input_ids"].tolist() == [[5, 6, 0, 0, 0, 0]]


def test_texts_are_bytes() -> None:
    assert mapping([("t", "BYTES", [-1])], text="t").texts(["é", ""])["t"].tolist() == ["é".encode(), b""]


def test_an_input_that_nobody_fills_is_refused_unless_it_is_optional() -> None:
    inputs: Tensors = [*IDS, ("token_type_ids", "INT32", [-1, -1])]
    config = model_config_pb2.ModelConfig(max_batch_size=4)
    for name, _, _ in inputs:
        config.input.add(name=name, optional=name == "token_type_ids")
    assert mapping(inputs, config=config).items == 4
    config.input[2].optional = False
    with pytest.raises(LoadError, match="also wants the input tensor 'token_type_ids'"):
        mapping(inputs, config=config)
    assert mapping(inputs).items == 16, "a server that tells no more than the protocol asks"


def test_columns_of_the_output() -> None:
    wide: Tensors = [("logits", "FP64", [-1, -1])]
    fits = mapping(IDS, wide, heads=2, columns=[2, 0])
    assert fits.scores(np.array([[1.0, 2.0, 3.0]]), 1) == [[3.0, 1.0]]
    flat = mapping(IDS, [("logits", "FP16", [-1])])
    assert flat.scores(np.array([0.5, 1.5], np.float16), 2) == [[0.5], [1.5]]
    with pytest.raises(ValueError, match=r"shape \[1, 2\] for 1 rows and columns \[2, 0\]"):
        fits.scores(np.array([[1.0, 2.0]]), 1)
    with pytest.raises(ValueError, match="sent no output tensor 'logits'"):
        fits.scores(None, 1)


def test_probabilities_become_logits() -> None:
    fits = mapping(IDS, output_is="probability", convert="logit")
    [[low], [middle], [high], [sure]] = fits.scores(np.array([[0.25], [0.5], [0.75], [1.0]]), 4)
    assert (low, middle, high) == pytest.approx((-np.log(3), 0, np.log(3)))
    assert sure == float("inf"), "reported as NON_FINITE, never as a large score"


class Client:
    """Stands for the server: answers with each row's number of tokens, slowly."""

    def __init__(self) -> None:
        self.running = self.most = 0
        self.rows: list[int] = []
        self._lock = threading.Lock()

    def is_server_ready(self, **_: Any) -> bool:
        return True

    def is_model_ready(self, *_: Any, **__: Any) -> bool:
        return True

    def get_model_metadata(self, *_: Any, **__: Any) -> Any:
        return metadata([("input_ids", "INT64", [-1, -1]), ("n", "INT64", [-1])])

    def get_model_config(self, *_: Any, **__: Any) -> Any:
        return service_pb2.ModelConfigResponse(config=model_config_pb2.ModelConfig(max_batch_size=2))

    def infer(self, name: str, inputs: Any, **_: Any) -> Any:
        with self._lock:
            self.running += 1
            self.most = max(self.most, self.running)
            self.rows.append(inputs[0].shape()[0])
        time.sleep(0.02)
        lengths = np.frombuffer(inputs[1]._get_content(), np.int64)
        with self._lock:
            self.running -= 1

        class Result:
            def as_numpy(self, name: str) -> Any:
                return lengths[:, None].astype(np.float32)

        return Result()

    def close(self) -> None:
        """Nothing is open."""


def test_requests_in_flight_are_bounded_and_items_keep_their_order(reward_model: Path) -> None:
    client = Client()
    options = TritonOptions(model_name="m", output_is="logit", mask="", lengths="n", max_in_flight=3)
    model = TritonModel(str(reward_model), client, options, scale="logit", name="m", version=1, extras=())
    try:
        sequences = [[3] * n for n in (5, 1, 9, 2, 7, 3, 8, 4, 6, 11, 10)]
        assert model.scores(sequences) == [([float(len(ids))], len(ids)) for ids in sequences]
    finally:
        model.close()
    assert 1 < client.most <= 3
    assert max(client.rows) <= 2
    assert sum(client.rows) == len(sequences)


def test_tokens_that_do_not_survive_being_text_are_absent(reward_model: Path) -> None:
    client = Client()
    client.get_model_metadata = lambda *_, **__: metadata([("t", "BYTES", [-1])])  # type: ignore[method-assign]
    options = TritonOptions(model_name="m", output_is="logit", text="t")
    model = TritonModel(str(reward_model), client, options, scale="", name="m", version=1, extras=())
    letters = [model.tokenizer.convert_tokens_to_ids(letter) for letter in "Ann"]  # read again, they are one token
    try:
        with pytest.raises(ItemsLostError) as error:
            model.scores([letters])
    finally:
        model.close()
    [lost] = error.value.absences
    assert lost.reason == pb.ABSENCE_REASON_INVALID_INPUT
