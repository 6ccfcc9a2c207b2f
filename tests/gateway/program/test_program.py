"""Programs as a whole: the example of the documentation, mistakes with their places, fingerprints."""

from __future__ import annotations

import pytest

from rewardmesh.gateway.program import JudgeSignal, ProgramError, RewardSignal, VerifierSignal, evaluate, parse_program
from rewardmesh.gateway.program.node import Member
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import mesh_service_pb2 as mesh

EXAMPLE = """\
name: math-helpful
signals:
  correct: {verifier: math}
  helpful: {reward: helpful-rm}
  prefer:  {judge: concise, mode: compare, against: group}
reward:
  gate: {if: correct, then: {sum: [{of: helpful, shape: {sigmoid: {centre: baseline}}, weight: 0.7}, {of: prefer, weight: 0.3}]}, else: 0.0}
on_absence: {correct: drop, helpful: wait, prefer: fallback(0.5)}
"""
BASELINES = {"math-helpful/helpful": 1.5}


def test_the_example_reads_and_runs() -> None:
    program = parse_program(EXAMPLE, "example.yaml", BASELINES)
    assert isinstance(program.signals["correct"], VerifierSignal)
    assert isinstance(program.signals["helpful"], RewardSignal)
    assert isinstance(program.signals["prefer"], JudgeSignal)
    assert program.reward.scale.to_proto() == pb.Scale(kind=pb.SCALE_KIND_BOUNDED, min=0, max=1)
    assert program.rules["helpful"].policy == mesh.ABSENCE_POLICY_WAIT
    assert program.rules["prefer"].fallback == 0.5
    right, wrong = evaluate(
        program,
        [Member({}, {"correct": 1.0, "helpful": 1.5, "prefer": 1.0}), Member({}, {"correct": 0.0, "helpful": 9.0, "prefer": 0.0})],
    )
    assert right.value == pytest.approx(0.7 * 0.5 + 0.3)
    assert wrong.value == 0.0


def test_a_baseline_that_is_not_stored_is_refused_with_its_place() -> None:
    with pytest.raises(ProgramError, match=r"e\.yaml:7: reward\.gate\.then\.sum\[0\]\.shape\.sigmoid\.centre: no baseline .*'helpful'"):
        parse_program(EXAMPLE, "e.yaml")


def test_the_fingerprint_is_of_the_meaning() -> None:
    first = parse_program(EXAMPLE, "a.yaml", BASELINES).fingerprint
    assert len(first) == 64
    assert parse_program("# a comment\n" + EXAMPLE.replace("{verifier: math}", "{ verifier: 'math' }"), "b", BASELINES).fingerprint == first
    for changed in (
        EXAMPLE.replace("0.7", "0.8"),
        EXAMPLE.replace("helpful: wait", "helpful: drop"),
        EXAMPLE.replace("helpful-rm", "helpful-rm-2"),
        EXAMPLE.replace("else: 0.0", "else: 0.1"),
    ):
        assert parse_program(changed, "c", BASELINES).fingerprint != first
    assert parse_program(EXAMPLE, "a", {"math-helpful/helpful": 1.6}).fingerprint != first


def test_the_unknown_shape_is_named_with_its_path_and_the_known_ones() -> None:
    text = EXAMPLE.replace("{of: prefer, weight: 0.3}", "{of: prefer, shape: {sigmoidd: {}}}")
    with pytest.raises(ProgramError) as caught:
        parse_program(text, "p.yaml", BASELINES)
    assert str(caught.value) == (
        "p.yaml:7: reward.gate.then.sum[1].shape: unknown shape 'sigmoidd' (known: clip, linear, log_sigmoid, sigmoid, standardise)"
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name: math-helpful", "name: ''", "p:1: name: '' is no name"),
        ("name: math-helpful\n", "", "p:1: name: is required"),
        ("name: math-helpful", "name: 3", "p:1: name: Input should be a valid string, is 3"),
        ("name: math-helpful", "name: x\nnote: y", "p:2: note: unknown field"),
        ("{verifier: math}", "{verifer: math}", "p:3: signals.correct: must be a mapping with exactly one of verifier, reward, judge"),
        ("{verifier: math}", "{verifier: math, reward: x}", "p:3: signals.correct: must be a mapping with exactly one of"),
        ("{verifier: math}", "{verifier: math, timout: 3}", "p:3: signals.correct.timout: unknown field (known: options, scale, service"),
        ("{verifier: math}", "{verifier: math, timeout: 0}", "p:3: signals.correct.timeout: Input should be greater than 0, is 0"),
        ("{verifier: math}", "{verifier: math, timeout: '3'}", "p:3: signals.correct.timeout: Input should be a valid number, is '3'"),
        ("{verifier: math}", "{verifier: math, options: {day: 2020-01-01}}", "p:3: signals.correct.options: must hold only texts"),
        ("{verifier: math}", "{verifier: math, options: {x: .nan}}", "p:3: signals.correct.options: must hold only texts, finite numbers"),
        (
            "{verifier: math}",
            f"{{verifier: math, options: {'{a: ' * 60}1{'}' * 60}}}",
            "p:3: signals.correct.options: is nested too deeply to be sent",
        ),
        ("against: group", f"against: group, seed: {10**23}", "p:5: signals.prefer.seed: Input should be less than"),
        (
            "against: group",
            f"against: group, votes: {2**31}",
            "p:5: signals.prefer.votes: Input should be less than or equal to 2147483647",
        ),
        ("{verifier: math}", "{verifier: math, scale: metres}", "p:3: signals.correct.scale: must be one of logit, probability"),
        ("{verifier: math}", "{verifier: math, scale: {bounded: {min: 2, max: 1}}}", "p:3: signals.correct.scale: must be one of"),
        (", against: group", "", "p:5: signals.prefer: mode compare needs `against: group` or `against: references`"),
        ("mode: compare", "mode: grade", "p:5: signals.prefer.against: unknown field (known: "),
        ("mode: compare, ", "", "p:5: signals.prefer.mode: must be one of compare, rank, grade, critique"),
        ("correct: drop", "korrect: drop", "p:8: on_absence.korrect: unknown signal 'korrect' (known: correct, helpful, prefer)"),
        ("correct: drop", "correct: zero", "p:8: on_absence.correct: must be one of drop, wait, abort, resample or fallback(<number>)"),
        ("fallback(0.5)", "fallback(nan)", "p:8: on_absence.prefer: must be one of"),
        ("fallback(0.5)", "fallback(1.5)", "p:8: on_absence.prefer: 1.5 is outside the signal's scale, probability [0, 1]"),
        ("if: correct", "if: korrect", "p:7: reward.gate.if: unknown signal 'korrect' (known: correct, helpful, prefer)"),
        ("if: correct", "if: true", "p:7: reward.gate.if: must be a number, a signal's name or an operator"),
        ("else: 0.0", "else: .nan", "p:7: reward.gate.else: must be a finite number"),
        ("else: 0.0", "otherwise: 0.0", "p:7: reward.gate.else: is required"),
        ("gate: {", "gaet: {", "p:7: reward: must hold exactly one operator, holds 'gaet' (known: gate, route, shape, sum)"),
        (", {of: prefer, weight: 0.3}", "", "p:5: signals.prefer: is not used in reward"),
        ("weight: 0.3", "weight: 0.3, wait: 2", "p:7: reward.gate.then.sum[1].wait: unknown field (known: of, shape, weight)"),
        ("weight: 0.3", "weight: .inf", "p:7: reward.gate.then.sum[1].weight: Input should be a finite number"),
        (
            "shape: {sigmoid: {centre: baseline}}",
            "shape: {sigmoid: {center: 1}}",
            "p:7: reward.gate.then.sum[0].shape.sigmoid.center: unknown",
        ),
        (
            ", shape: {sigmoid: {centre: baseline}}",
            "",
            "p:7: reward.gate.then.sum[0]: a logit value cannot be added to others: shape it ({sigmoid: {centre: group}}",
        ),
    ],
)
def test_mistakes_are_refused_with_file_line_and_path(old: str, new: str, message: str) -> None:
    assert old in EXAMPLE
    with pytest.raises(ProgramError) as caught:
        parse_program(EXAMPLE.replace(old, new, 1), "p", BASELINES)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "p:1: document: is empty"),
        ("- a", "p:1: document: must be a mapping, is a list"),
        ("name: [", "p:1: document: is not YAML"),
        ("name: a\nsignals: {a: b\n", "p:3: document: is not YAML"),
        ("name: a\n---\nname: b", "p:2: document: is not YAML"),
        ("name: a\nname: b", "p:2: name: is given twice"),
        ("name: a\nreward: {route: {by: x, cases: {no: 1}}}", "p:2: reward.route.cases: 'no' (line 2) is no string"),
        ("name: &n a\nreward: *n", "p:1: reward: aliases are not allowed"),
        ("name: 2020-13-45", "p:1: document: month must be in 1..12"),
        ("name: \x07", "p:1: document: is not YAML"),
        ("a: " + "[" * 5000, "p:1: document: is nested too deeply"),
        ("name: !!python/object:os.system x", "p:1: document: is not YAML: could not determine a constructor"),
    ],
)
def test_corrupt_text_is_refused_with_its_line(text: str, message: str) -> None:
    with pytest.raises(ProgramError) as caught:
        parse_program(text, "p")
    assert str(caught.value).startswith(message)


def test_declared_scales_may_be_added() -> None:
    text = """\
name: scaled
signals:
  stars: {reward: stars-rm, scale: {bounded: {min: 1, max: 5}}}
  safe: {reward: safety-rm, objective: harmless, scale: probability}
reward: {sum: [{of: stars, weight: 2}, {of: safe, weight: -1}]}
"""
    assert parse_program(text).reward.scale.to_proto() == pb.Scale(kind=pb.SCALE_KIND_BOUNDED, min=1, max=10)
