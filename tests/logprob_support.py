"""What tests of the log-prob service share: asking, reading arrays, and the same numbers by transformers alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from rewardmesh.client import AsyncClient
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import log_prob_service_pb2 as api


def ids(array: pb.Int32Array) -> list[int]:
    return [int(value) for value in np.frombuffer(array.data, "<i4")]


def floats(array: pb.Float32Array) -> torch.Tensor:
    assert len(array.data) == 4 * array.length
    return torch.from_numpy(np.frombuffer(array.data, "<f4").copy())


def plain(path: Path, sequence: api.TokenSequence, temperature: float = 1.0) -> torch.Tensor:
    """[L, V] log-probabilities at the completion's positions by transformers alone."""
    model = AutoModelForCausalLM.from_pretrained(path)
    prompt, completion = ids(sequence.prompt_ids), ids(sequence.completion_ids)
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
    return torch.log_softmax(logits / temperature, dim=1)


async def ask(client: AsyncClient, sequences: Sequence[api.TokenSequence], **request: Any) -> list[api.TokenLogProbsOutcome]:
    return list((await client.log_prob.ScoreTokens(api.ScoreTokensRequest(sequences=sequences, **request))).outcomes)


async def refused(call: Any, code: grpc.StatusCode) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    assert error.value.code() is code
    return str(error.value.details())


def reason(outcome: api.TokenLogProbsOutcome) -> str:
    assert outcome.WhichOneof("result") == "absence", outcome
    return pb.AbsenceReason.Name(outcome.absence.reason).removeprefix("ABSENCE_REASON_")
