"""A panel's file: what is refused, and with which words."""

from __future__ import annotations

from pathlib import Path

import pytest

from rewardmesh.panel.document import Panel, load_panel
from rewardmesh.serving import ConfigError

MEMBERS = "members: {x: {address: 'h:1'}, y: {address: 'h:2'}, z: {address: 'h:3'}}"


def load(tmp_path: Path, text: str, addresses: dict[str, str] | None = None) -> Panel:
    path = tmp_path / "panel.yaml"
    path.write_text(text)
    return load_panel(path, addresses or {})


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ("", "default: is missing; name a rule"),
        ("default: {}", "default.rule: is missing; one of jury, cascade"),
        ("default: {rule: juri}", r"default.rule: 'juri' is unknown; one of .* \(did you mean 'jury'\?\)"),
        ("default: {rule: [jury]}", "default.rule: .* is unknown"),
        ("default: {rule: jury, quorumm: 2}", "default.quorumm: .*did you mean 'quorum'"),
        ("default: {rule: jury, quorum: 4}", "default.quorum: 4 members can never answer, 3 take part"),
        ("default: {rule: jury, members: [x, w]}", "default.members: 'w' is no member of this panel; members are x, y, z"),
        ("default: {rule: jury, members: [x, x]}", "default.members: names a member twice"),
        ("compare: {rule: jury, vote: borda}", "compare.vote: 'borda' is no vote of compare; one of mean, median, majority, unanimity"),
        ("critique: {rule: jury}", "critique.rule: 'jury' cannot answer critique; one of critics"),
        ("compare: {rule: constraints}", "compare.rule: 'constraints' cannot answer compare; one of jury, cascade"),
        ("default: {rule: self_consistency}", "default.members: must be two, the current version and an earlier one; there are 3"),
        ("default: {rule: cascade, members: [x]}", "default.members: a cascade needs at least 2, the cheapest first"),
        ("default: {rule: cascade, drift: {below: 0.5, recover: 0.6}}", "default.drift: needs audited items; set audit"),
        ("default: {rule: cascade, audit: 0.1, drift: {below: 0.5, recover: 0.4}}", "default.drift: .*recover: must be at least below"),
        (
            "default: {rule: cascade, audit: 0.1, drift: {below: 0.5, recover: 0.6, window: 5}}",
            "default.drift: .*least: cannot be more than window",
        ),
        ("default: {rule: debate, advocates: [x], judge: z}", "default.advocates"),
        ("default: {rule: debate, advocates: [x, y], judge: w}", "default.judge: 'w' is no member"),
        ("default: {rule: hindsight, writers: [x, x], judge: z}", "default.writers: names a member twice; a second entry in members"),
        ("default: {rule: hindsight, writers: [x], judge: z, quorum: 2}", "default.quorum: 2 writers can never answer"),
        ("grade: {rule: constraints, thresholds: {w: 0.5}}", "grade.thresholds.w: takes no part; members are x, y, z"),
        ("grade: {rule: constraints, thresholds: {x: 2}}", r"grade.thresholds.x: must be in \[0, 1\], is 2"),
        ("critique: {rule: critics, keep: best}", "critique.keep: best: needs a judge"),
        ("critique: {rule: critics, rubric: r}", "critique.rubric: needs a judge"),
        ("critique: {rule: critics, judge: x, quorum: 3}", "critique.quorum: 3 members can never answer, 2 take part"),
        ("rank: {rule: repeats, member: w}", "rank.member: 'w' is no member"),
        ("rank: {rule: repeats, member: x, repeats: 1}", "rank.repeats: .*greater than or equal to 2"),
        (
            "default: {rule: jury}\ncompare: {rule: jury}\nrank: {rule: jury}\ngrade: {rule: jury}\ncritique: {rule: critics}",
            "default.rule: every method has a rule of its own; leave default out",
        ),
        ("votes: 3\ndefault: {rule: jury}", "votes: "),
    ],
)
def test_mistakes_are_named(tmp_path: Path, rules: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"panel.yaml: {message}"):
        load(tmp_path, f"name: p\n{MEMBERS}\n{rules}\n")


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ("members: {}", "members"),
        ("members: {x: {}}", r"members.x.address: is missing; set it here, or as addresses: \{x: host:port\} of the server"),
        ("members: {x: {address: nonsense}}", "members.x.address: 'nonsense' in target 'nonsense' is not host:port"),
        ("members: {x: {address: h, weight: 0}}", "members.x.weight: .*greater than 0"),
        ("members: {x: {address: h, votes: -1}}", "members.x.votes"),
        ("members: {x: {adress: h}}", "members.x.adress"),
        ("members: [x]", "members: must be a mapping of fields"),
        ("members: {x: h}", "members.x: must be a mapping of fields"),
        ("members: {x: {address: 'h:1', notes: hi}}", "members.x.notes: must be a list"),
        ("members: {'': {address: 'h:1'}}", "members.*: .*at least 1 character"),
    ],
)
def test_mistakes_in_members(tmp_path: Path, members: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"panel.yaml: {message}"):
        load(tmp_path, f"name: p\n{members}\ndefault: {{rule: jury}}\n")


def test_addresses_may_come_from_the_server(tmp_path: Path) -> None:
    text = "name: p\nmembers: {x: {}, y: {address: 'h:2'}}\ndefault: {rule: jury}\n"
    panel = load(tmp_path, text, {"x": "a:1", "y": "a:2"})
    assert [spec.address for spec in panel.members.values()] == ["a:1", "a:2"]
    moved = load(tmp_path, text, {"x": "b:1"})
    assert panel.digest == moved.digest, "where a judge is served says nothing of its verdicts"
    assert panel.mark != moved.mark
    with pytest.raises(ConfigError, match=r"panel.yaml:2:28: 'x' is given twice"):
        load(tmp_path, "name: p\nmembers: {x: {address: h}, x: {address: i}}\n")
    with pytest.raises(ConfigError, match=r"addresses.w: .* has no such member; members are x, y"):
        load(tmp_path, text, {"w": "a:1"})


def test_a_default_answers_what_it_can(tmp_path: Path) -> None:
    panel = load(tmp_path, f"name: p\n{MEMBERS}\ndefault: {{rule: jury, vote: borda}}\ncritique: {{rule: critics}}\n")
    assert {method: rule.rule for method, rule in panel.rules.items()} == {"rank": "jury", "critique": "critics"}
    other = load(tmp_path, f"name: q\n{MEMBERS}\ndefault: {{rule: jury, vote: copeland}}\ncritique: {{rule: critics}}\n")
    assert panel.digest != other.digest
