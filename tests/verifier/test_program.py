"""Checks written in Python: admitted when they agree with labelled examples, refused by name otherwise, and never the policy's fault."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from rewardmesh.serving import Server
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import verifier_service_pb2 as verifier_pb
from sandbox_support import require

Start = Callable[..., Awaitable[tuple[Server, Any]]]
RequestOf = Callable[..., verifier_pb.VerifyRequest]
EVEN = [{"completion": str(n), "label": n % 2 == 0} for n in range(10)]
SOURCES = {
    "even": "def check(prompt, completion, references):\n    return int(completion) % 2 == 0, f'read {completion}'",
    "always": "def check(prompt, completion, references):\n    return True",
    "mostly": "def check(prompt, completion, references):\n    return True if completion == '1' else int(completion) % 2 == 0",
    "broken": "def check(prompt, completion, references):\n    return nothing",
    "hostile": "import os\nos.kill(os.getppid(), 9)",
    "few": "def check(prompt, completion, references):\n    return True",
    "alone": "def check(prompt, completion, references):\n    return True",
    "wrong": "def check(prompt, completion, references):\n    return True",
    "odd": """
def check(prompt, completion, references):
    if completion == "hang":
        while True: pass
    if completion == "raise":
        raise LookupError(completion)
    said = {"none": None, "two": 2, "nan": float("nan"), "half": 0.5, "text": "x", "object": object(), "all": (1, "why")}
    said |= {"prompt": prompt == "hello", "references": references == ["a"]}
    return said.get(completion, False)
""",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    examples = {name: EVEN for name in SOURCES} | {
        "few": EVEN[:3],
        "odd": [{"completion": "half", "score": 0.5}, *({"completion": f"no {n}", "label": False} for n in range(9))],
        "wrong": [{"completion": "1"}] * 10,
    }
    for name, source in SOURCES.items():
        (tmp_path / f"{name}.py").write_text(source)
        if name != "alone":
            (tmp_path / f"{name}.examples.jsonl").write_text("\n".join(json.dumps(one) for one in examples[name]))
    return tmp_path


async def test_only_what_agrees_with_its_examples_is_admitted(start: Start, request_of: RequestOf, folder: Path) -> None:
    require("bubblewrap")
    _, stub = await start(program_dirs=(folder,), sandbox="bubblewrap")
    listed = {info.name: info for info in (await stub.ListVerifiers(verifier_pb.ListVerifiersRequest(), timeout=20)).verifiers}
    assert [name for name in listed if name.startswith("program/")] == ["program/even", "program/mostly", "program/odd"]
    assert listed["program"].sandbox == "bubblewrap"
    measured = listed["program/mostly"].measured
    assert (measured.examples, measured.recall, measured.absent) == (10, 1.0, 0)
    assert measured.precision == pytest.approx(5 / 6)

    async def ask(name: str, *completions: str, **options: Any) -> list[str]:
        request = request_of("program", list(completions), "a", name=name, **options)
        for sample in request.samples:
            sample.prompt.add(role=pb.ROLE_USER, content="hello")
        return [_told(outcome) for outcome in (await stub.Verify(request, timeout=60)).outcomes]

    assert await ask("even", "4", "5") == ["PASS: read 4", "FAIL: read 5"]
    refusals = {
        "always": "agrees with 5 of 10 labelled examples; it needs 90%",
        "broken": "agrees with 0 of 10 labelled examples; it needs 90% (program_min_agreement); check broken raised NameError",
        "hostile": "agrees with 0 of 10",
        "few": "3 labelled examples; it needs 8",
        "alone": "its labelled examples cannot be read",
        "wrong": "give label or score",
        "nope": "no check 'nope'; known: alone, always, broken",
    }
    for name, words in refusals.items():
        (found,) = await ask(name, "4")
        assert found.startswith("NOT_APPLICABLE")
        assert words in found
    assert await ask("odd", "prompt", "references", "half", "all") == [
        "PASS: check odd",
        "PASS: check odd",
        "PARTIAL: check odd",
        "PASS: why",
    ]
    assert [found.partition(":")[0] for found in await ask("odd", "none", "raise", "two", "nan", "text", "object")] == [
        "ABSTAINED", "INFRASTRUCTURE", "INFRASTRUCTURE", "INFRASTRUCTURE", "INFRASTRUCTURE", "INFRASTRUCTURE",
    ]  # fmt: skip
    assert (await ask("odd", "hang", seconds=0.5))[0].startswith("DEADLINE")
    assert (await ask("odd", "hang", seconds=0.5, on_timeout="fail"))[0].startswith("FAIL")
    assert (await ask("odd", "half", seconds=1000))[0].startswith("INVALID_INPUT: options.seconds")
    direct = await stub.Verify(request_of("program/even", ["4"]), timeout=20)
    assert _told(direct.outcomes[0]) == "PASS: read 4"


async def test_without_a_folder_there_is_no_check(start: Start, request_of: RequestOf) -> None:
    _, stub = await start()
    response = await stub.Verify(request_of("program", ["4"], name="even"), timeout=20)
    assert _told(response.outcomes[0]).startswith("NOT_APPLICABLE: options.name: no check 'even'")


async def test_two_checks_of_one_name_are_refused_at_the_start(
    start: Start, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    second = tmp_path_factory.mktemp("second")
    (second / "even.py").write_text("")
    with pytest.raises(ValueError, match="two checks are named 'even'"):
        await start(program_dirs=(folder, second))


def _told(outcome: verifier_pb.VerdictOutcome) -> str:
    if outcome.HasField("absence"):
        return f"{pb.AbsenceReason.Name(outcome.absence.reason).removeprefix('ABSENCE_REASON_')}: {outcome.absence.detail}"
    return f"{verifier_pb.VerdictStatus.Name(outcome.verdict.status).removeprefix('VERDICT_STATUS_')}: {outcome.verdict.evidence}"
