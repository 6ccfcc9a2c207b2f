"""Absence semantics, over many programs: a missing value is never a number."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewardmesh.gateway.program import Member, evaluate, parse_program
from rewardmesh.serving.validation import absence
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import mesh_service_pb2 as mesh

D, W, A, R = (
    mesh.ABSENCE_POLICY_DROP,
    mesh.ABSENCE_POLICY_WAIT,
    mesh.ABSENCE_POLICY_ABORT,
    mesh.ABSENCE_POLICY_RESAMPLE,
)


@pytest.mark.parametrize(
    ("rules", "advice"),
    [
        ("{correct: drop, graded: drop}", D),
        ("{correct: wait, graded: wait}", W),
        ("{correct: wait, graded: drop}", D),
        ("{correct: resample, graded: wait}", R),
        ("{correct: drop, graded: resample}", R),
        ("{correct: resample, graded: abort}", A),
        ("{correct: fallback(0.5), graded: wait}", W),
    ],
)
def test_the_strongest_policy_decides(make: Any, run: Any, lost: Any, rules: str, advice: mesh.AbsencePolicy.ValueType) -> None:
    [got] = run(make("{sum: [correct, graded]}", rules), [{"correct": lost, "graded": lost}])
    assert got.value is None
    assert got.advice == advice


def test_wait_drops_what_no_retry_lifts(make: Any, run: Any, lost: Any, hopeless: Any) -> None:
    program = make("{sum: [correct, graded]}", "{correct: wait, graded: wait}")
    [hopeful] = run(program, [{"correct": lost, "graded": 1.0}])
    assert (hopeful.advice, hopeful.absence.retryable) == (W, True)
    assert hopeful.absence.retry_after.seconds == 2
    [mixed] = run(program, [{"correct": lost, "graded": hopeless}])
    assert (mixed.advice, mixed.absence.retryable) == (D, False)
    assert mixed.absence.reason == pb.ABSENCE_REASON_UNPARSABLE
    assert mixed.absence.detail == "correct: the server is gone; graded: no answer found"
    assert not mixed.absence.HasField("retry_after")
    assert mixed.applied == {"correct": W, "graded": D}


def test_a_signal_that_is_used_twice_is_one_cause(make: Any, run: Any, lost: Any) -> None:
    [got] = run(make("{sum: [correct, {of: correct, weight: 2}]}"), [{"correct": lost}])
    assert got.absence.detail == "correct: the server is gone"


def test_a_reward_that_overflows_is_absent(make: Any, run: Any) -> None:
    program = make("{of: helpful, shape: {linear: {scale: 1.0e30}}}")
    [got] = run(program, [{"helpful": 1e30}])
    assert got.absence.reason == pb.ABSENCE_REASON_NON_FINITE
    [infinite] = run(make("{of: {of: helpful, shape: {linear: {scale: 1.0e300}}}, shape: {standardise: group}}"), [{"helpful": 1e30}])
    assert infinite.value is None


PROGRAMS = [
    "{sum: [correct, {of: helpful, shape: {sigmoid: {centre: group}}, weight: 0.5}, {of: prefer, weight: -1}]}",
    "{gate: {if: correct, then: {sum: [{of: helpful, shape: {standardise: group}}, prefer]}, else: {of: prefer, shape: sigmoid}}}",
    "{gate: {if: correct, then: {of: helpful, shape: {clip: {min: -1, max: 1}}}, else: prefer}}",
    "{route: {by: task, cases: {math: {sum: [correct, prefer]}}, default: {of: helpful, shape: {standardise: group}}}}",
    "{of: {sum: [{of: helpful, shape: sigmoid}, correct]}, shape: {log_sigmoid: {centre: group}}}",
]
SIGNALS = "correct: {verifier: math}, helpful: {reward: rm}, prefer: {judge: concise, mode: compare, against: group}"
LOST = absence(pb.ABSENCE_REASON_DEADLINE, "late", retryable=True)

value = st.floats(0, 1, width=32)
rows = st.lists(
    st.tuples(
        st.fixed_dictionaries({name: st.one_of(value, st.none()) for name in ("correct", "helpful", "prefer")}),
        st.sampled_from(["math", "chat"]),
    ),
    min_size=1,
    max_size=5,
)


def _parse(reward: str) -> str:
    used = [part.strip() for part in SIGNALS.replace("}, ", "}\n").splitlines() if part.split(":")[0].strip() in reward]
    return f"name: p\nsignals: {{{', '.join(used)}}}\nreward: {reward}\n"


@pytest.mark.parametrize("reward", PROGRAMS)
@given(rows=rows)
def test_an_absence_is_never_imputed(reward: str, rows: list[tuple[dict[str, float | None], str]]) -> None:
    """Whatever number is put in place of an absence, what was composed without it stays; and what needed it was absent."""
    program = parse_program(_parse(reward))
    members = [Member({"task": task}, {name: LOST if number is None else number for name, number in row.items()}) for row, task in rows]
    got = evaluate(program, members)
    for index, (member, composition) in enumerate(zip(members, got, strict=True)):
        needed = program.reward.needs(member.tags)
        if composition.value is None:
            assert composition.absence is not None
            assert composition.advice == D
            # A reward is absent only where something is: its own signals, or too few in the group.
            derived = composition.absence.reason == pb.ABSENCE_REASON_NOT_APPLICABLE
            assert derived or any(member.values[name] is LOST for name in needed)
            continue
        assert math.isfinite(composition.value)
        assert composition.applied == {}
        # Its own absences cannot have counted: any number in their place leaves the value as it was, but for the group's statistics,
        # which a new present value may rightly move; so only programs without them are held to it.
        if "group" in reward:
            continue
        for filled in (0.0, 1.0):
            values = {name: filled if number is LOST else number for name, number in member.values.items()}
            changed = evaluate(program, [*members[:index], Member(member.tags, values), *members[index + 1 :]])
            assert changed[index].value == composition.value


@pytest.mark.parametrize("reward", PROGRAMS)
@given(rows=rows)
def test_an_absent_member_is_as_good_as_not_there(reward: str, rows: list[tuple[dict[str, float | None], str]]) -> None:
    """Group statistics leave a member out whose signals are all absent: the others' values are those of the group without it."""
    program = parse_program(_parse(reward))
    members = [Member({"task": task}, {name: LOST if number is None else number for name, number in row.items()}) for row, task in rows]
    absent = Member({"task": "chat"}, dict.fromkeys(("correct", "helpful", "prefer"), LOST))
    without = [composition.value for composition in evaluate(program, members)]
    assert [composition.value for composition in evaluate(program, [*members, absent])][:-1] == without
