"""Audits of verifiers: the real math verifier, and one with known faults."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from rewardmesh.audit import Audit, AuditError, LabelledAnswer, VerifierData, VerifierSettings, audit_verifier
from rewardmesh.audit.judge import user
from rewardmesh.audit.verifier.edits import MATH, final
from rewardmesh.client import AsyncClient, CallFailed
from rewardmesh.serving import Server, ServerConfig
from rewardmesh.serving.context import CallContext
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import verifier_service_pb2 as api
from rewardmesh.v1 import verifier_service_pb2_grpc as rpc
from rewardmesh.verifier import VerifierConfig, create_server


def answer(number: int, text: str, right: bool, group: str = "") -> LabelledAnswer:
    return LabelledAnswer(f"id-{number}", user("How many?"), text, right, ("It is 1200.\n#### 1200",), group)


DATA = VerifierData("made up", tuple(answer(i, f"It is {n}.\n#### {n}", n == 1200) for i, n in enumerate([1200] * 12 + [7] * 8)))


class Faulty(rpc.VerifierServiceServicer):
    """Passes what ends in 1200, with faults by name: "lax" passes everything, "mute" is absent, "moody" changes its mind."""

    def __init__(self) -> None:
        self.calls = 0
        self.together: list[set[str]] = []

    async def ListVerifiers(self, request: api.ListVerifiersRequest, context: CallContext) -> api.ListVerifiersResponse:
        names = ("group", "lax", "math", "moody", "mute")
        return api.ListVerifiersResponse(verifiers=[api.VerifierInfo(name=name, groups=name == "group") for name in names])

    async def Verify(self, request: api.VerifyRequest, context: CallContext) -> api.VerifyResponse:
        self.calls += 1
        self.together.append({sample.group_id for sample in request.samples})
        return api.VerifyResponse(outcomes=[self.outcome(request.verifier, sample) for sample in request.samples])

    async def StreamVerify(self, requests: AsyncIterator[api.StreamVerifyRequest], context: CallContext) -> AsyncIterator[Any]:
        name = ""
        async for request in requests:
            name = name or request.verifier
            if request.samples:
                yield api.StreamVerifyResponse(outcomes=[self.outcome(name, sample) for sample in request.samples])

    def outcome(self, name: str, sample: pb.Sample) -> api.VerdictOutcome:
        """One verdict."""
        if name == "mute":
            absence = pb.Absence(reason=pb.ABSENCE_REASON_DEADLINE, detail="slept")
            return api.VerdictOutcome(sample_id=sample.id, absence=absence)
        passes = name == "lax" or sample.completion.text.endswith("1200")
        if name == "moody" and self.calls % 2:
            passes = not passes
        status = api.VERDICT_STATUS_PASS if passes else api.VERDICT_STATUS_FAIL
        return api.VerdictOutcome(sample_id=sample.id, verdict=api.Verdict(status=status, score=float(passes), evidence=name))


@asynccontextmanager
async def faulty() -> AsyncIterator[tuple[AsyncClient, Faulty]]:
    servicer = Faulty()
    server = Server(ServerConfig(drain_seconds=1.0), "faulty")
    server.add_service("rewardmesh.v1.VerifierService", rpc.add_VerifierServiceServicer_to_server, servicer)
    await server.start()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(server.stop)
        yield await stack.enter_async_context(AsyncClient(server.address)), servicer


async def audited(name: str, data: VerifierData = DATA, settings: VerifierSettings | None = None) -> Audit:
    async with faulty() as (client, _):
        return await audit_verifier(client, name, data, settings)


async def test_the_math_verifier_passes() -> None:
    fields: dict[str, Any] = {"workers": 1, "drain_seconds": 1.0}
    server = await create_server(VerifierConfig(**fields))
    await server.start()
    try:
        async with AsyncClient(server.address) as client:
            audit = await audit_verifier(client, "math", DATA)
            with pytest.raises(CallFailed, match="options"):
                await audit_verifier(client, "math", DATA, VerifierSettings(options={"no_such": 1}))
    finally:
        await server.stop()
    assert audit.passed, audit.failures
    assert audit.figure("agreement.accuracy").value == 1
    assert audit.figure("metamorphic.kept").estimate.n == 7 * 12
    assert audit.figure("metamorphic.caught").estimate.n == 5 * 12
    assert audit.figure("speed.throughput").value > 0


async def test_a_lax_verifier_has_recall_without_precision() -> None:
    audit = await audited("lax", settings=VerifierSettings(edits="math"))
    assert audit.figure("agreement.recall").value == 1
    assert audit.figure("agreement.precision").value == pytest.approx(12 / 20)
    assert audit.figure("metamorphic.caught").value == 0
    confusion, disagreements = audit.sections[0].findings.tables
    assert confusion.rows == (("right", "12", "0", "0", "0"), ("wrong", "8", "0", "0", "0"))
    assert len(disagreements.rows) == 8
    assert not audit.passed


async def test_absences_are_neither_right_nor_wrong() -> None:
    audit = await audited("mute")
    assert audit.figure("agreement.absent").value == 1
    assert {"agreement.accuracy", "agreement.precision", "agreement.recall"} <= set(audit.missing)
    assert audit.absent["DEADLINE"] > 0
    assert audit.sections[0].findings.tables[1].rows == (("DEADLINE", "20"),)
    assert not audit.passed


async def test_a_moody_verifier_is_found() -> None:
    audit = await audited("moody")
    assert audit.figure("determinism.changed").value == 1
    assert audit.sections[2].findings.examples
    assert "no edits are known" in audit.missing["metamorphic.kept"]


async def test_groups_stay_together() -> None:
    answers = tuple(answer(i, f"#### {1200 if i % 2 else 7}", bool(i % 2), f"g{i // 90}") for i in range(450))
    async with faulty() as (client, servicer):
        audit = await audit_verifier(client, "group", VerifierData("groups", answers), VerifierSettings(timed=1, edits="math"))
    assert audit.figure("agreement.accuracy").value == 1
    assert "judges groups" in audit.missing["metamorphic.kept"]
    seen = [group for call in servicer.together[:3] for group in call]
    assert sorted(seen) == ["g0", "g1", "g2", "g3", "g4"]
    too_large = tuple(answer(i, "#### 1200", True, "g") for i in range(201))
    with pytest.raises(AuditError, match="group 'g' has 201 answers"):
        await audited("group", VerifierData("one group", too_large))


@pytest.mark.parametrize(
    ("name", "data", "settings", "message"),
    [
        ("nope", DATA, {}, "verifier: 'nope' is unknown; the server has group, lax"),
        ("math", VerifierData("empty", ()), {}, "empty: holds no labelled answers"),
        ("math", DATA, {"thresholds": {"nope": 1.0}}, "'nope' is no figure"),
        ("math", DATA, {"timed": 0}, "timed: must be at least 1"),
    ],
)
async def test_mistakes(name: str, data: VerifierData, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(AuditError, match=message):
        await audited(name, data, VerifierSettings(**settings))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("so\nA: 1,200", ("so\n", "A: ", "1,200")),
        ("#### -3.5\n\n", ("", "#### ", "-3.5")),
        ("x\nThe answer is $18.", ("x\n", "The answer is ", "18")),
        ("no marker 18", None),
        ("A: 1 or 2", None),
        ("", None),
    ],
)
def test_the_final_answer_is_found(text: str, expected: tuple[str, str, str] | None) -> None:
    found = final(text)
    assert (found and (found.before, found.marker, found.number)) == expected


def test_edits_change_what_they_say() -> None:
    found = final("2 + 2\n#### 1200")
    assert found is not None
    changed = {edit.name: edit.change(found) for edit in MATH}
    assert changed["1,000 for 1000, or the reverse"] == "2 + 2\n#### 1,200"
    assert changed["\\boxed{} in place of the marker"] == "2 + 2\n\\boxed{1200}"
    assert changed["one more"] == "2 + 2\n#### 1201"
    assert changed["every number taken out"] == "some + some\n#### some"
    short = final("#### 0")
    assert short is not None
    assert {edit.name for edit in MATH if edit.change(short) is None} == {"1,000 for 1000, or the reverse", "the other sign"}
