"""Arrays, constructors and results by themselves, and what importing the package brings along."""

import json
import subprocess
import sys
from array import array

import numpy as np
import pytest

import rewardmesh.client
from rewardmesh.client import (
    Absence,
    AbsenceReason,
    answer,
    generation_prompt,
    message,
    messages,
    model_ref,
    pack_floats,
    pack_ints,
    pair,
    sample,
    unpack_floats,
    unpack_ints,
)
from rewardmesh.v1.common_pb2 import AbsenceReason as WireReason
from rewardmesh.v1.common_pb2 import Float32Array, Int32Array, ModelRef, Role


@pytest.mark.parametrize("values", [[], [1.5, -2.0], (0.5,), array("f", [1.0, 2.0]), array("d", [1.0]), np.arange(3, dtype=np.float32)])
def test_floats_round_trip(values: list[float]) -> None:
    packed = pack_floats(values)
    assert list(unpack_floats(packed)) == list(values)
    assert np.frombuffer(packed.data, "<f4").tolist() == list(values)


@pytest.mark.parametrize("values", [[], [1, -2, 2**31 - 1, -(2**31)], np.array([3, 4], dtype=np.int64)])
def test_ints_round_trip(values: list[int]) -> None:
    packed = pack_ints(values)
    assert list(unpack_ints(packed)) == list(values)
    assert np.frombuffer(packed.data, "<i4").tolist() == list(values)


def test_ints_out_of_range_are_refused() -> None:
    with pytest.raises(OverflowError):
        pack_ints([2**31])
    with pytest.raises(TypeError):
        pack_ints([1.5])  # type: ignore[list-item]


@pytest.mark.parametrize(("data", "length"), [(b"\0" * 8, 3), (b"\0" * 8, 1), (b"\0" * 3, 1), (b"", 1), (b"", -1)])
def test_wrong_lengths_name_both(data: bytes, length: int) -> None:
    words = f"length {length} must hold {4 * length} bytes, not {len(data)}"
    with pytest.raises(ValueError, match=words):
        unpack_floats(Float32Array(data=data, length=length))
    with pytest.raises(ValueError, match=words):
        unpack_ints(Int32Array(data=data, length=length))


def test_prompts() -> None:
    assert messages("hi") == [message("user", "hi")]
    assert [turn.role for turn in messages([("system", "be brief"), message("user", "hi")])] == [Role.ROLE_SYSTEM, Role.ROLE_USER]
    with pytest.raises(ValueError, match="'king'"):
        message("king", "hi")


def test_sample_keeps_everything() -> None:
    built = sample("a", "p", "c", group_id="g", references=["r"], tags={"k": "v"}, prompt_ids=[1], completion_ids=[2, 3], step_starts=[0])
    assert (built.id, built.group_id, list(built.references), dict(built.tags)) == ("a", "g", ["r"], {"k": "v"})
    assert list(unpack_ints(built.prompt_token_ids)) == [1]
    assert list(unpack_ints(built.completion.token_ids)) == [2, 3]
    assert not sample("a", "p", "c").HasField("prompt_token_ids")
    assert not sample("a", "p", "c").completion.HasField("token_ids")
    with pytest.raises(ValueError, match="completion_ids"):
        sample("a", "p", answer("c"), completion_ids=[1])


def test_answer_checks_lengths_and_words() -> None:
    built = answer("c", token_ids=[1, 2], sampling_log_probs=[-0.5, -1.0], finish_reason="stop", policy="actor")
    assert list(unpack_floats(built.sampling_log_probs)) == [-0.5, -1.0]
    assert built.policy.name == "actor"
    with pytest.raises(ValueError, match="1 sampling log-probs for 2 token ids"):
        answer("c", token_ids=[1, 2], sampling_log_probs=[-0.5])
    with pytest.raises(ValueError, match="finish reason"):
        answer("c", finish_reason="done")


def test_other_constructors() -> None:
    assert pair("ab", "p", "a", answer("b")).b.text == "b"
    assert model_ref("rm", 3) == ModelRef(name="rm", version=3)
    assert model_ref(None) is None
    with pytest.raises(ValueError, match="either"):
        generation_prompt("a")
    with pytest.raises(ValueError, match="either"):
        generation_prompt("a", "hi", token_ids=[1])


def test_absence_reasons_are_the_wires() -> None:
    wire = {name.removeprefix("ABSENCE_REASON_") for name in WireReason.keys()} - {"UNSPECIFIED"}  # noqa: SIM118 - no mapping
    assert {str(reason) for reason in AbsenceReason} == wire


@pytest.mark.parametrize("retry_after_s", [None, 0.0, 1.5])
def test_absence_round_trip(retry_after_s: float | None) -> None:
    absence = Absence(AbsenceReason.OVERLOADED, "full", retryable=True, retry_after_s=retry_after_s)
    assert Absence.from_proto(absence.to_proto()) == absence


def test_unset_reason_is_an_error() -> None:
    with pytest.raises(ValueError, match="UNSPECIFIED"):
        Absence.from_proto(Absence(AbsenceReason.DEADLINE, "").to_proto().__class__())


def test_public_names_are_all() -> None:
    public = {name for name, value in vars(rewardmesh.client).items() if not name.startswith("_") and type(value).__name__ != "module"}
    assert public == set(rewardmesh.client.__all__)


def test_importing_is_light() -> None:
    code = "import json, sys, rewardmesh.client; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    loaded = set(json.loads(found.stdout))
    assert not loaded & {"numpy", "torch", "pydantic", "grpc_status", "transformers"}
    # grpc itself imports its companions where they are installed.
    companions = {"grpc_health", "grpc_reflection", "grpc_tools", "grpc_channelz", "cython_runtime", "typing_extensions"}
    outside = {name for name in loaded - sys.stdlib_module_names if not name.startswith("_")}
    assert outside - companions == {"grpc", "google", "rewardmesh"}
