"""Constitutions: principles by name, whose words are part of the fingerprint."""

from __future__ import annotations

from pathlib import Path

import pytest

from judge.conftest import SHORT, Serve
from rewardmesh.client import AbsenceReason, pair, sample
from rewardmesh.judge.constitutions import Constitutions
from rewardmesh.serving import ConfigError
from rewardmesh.v1 import common_pb2 as pb

HONEST = """
name: honest
version: 2
principles:
  - {id: sure, text: It says how sure it is., weight: 3}
  - {id: true, text: It is true.}
""".replace("id: true", 'id: "true"')


@pytest.fixture
def constitutions(tmp_path: Path) -> Path:
    directory = tmp_path / "constitutions"
    directory.mkdir()
    (directory / "honest.yaml").write_text(HONEST)
    return directory


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: x", "principles: Field required"),
        ("name: x\nprinciples: []", "principles"),
        (HONEST + "  - {id: sure, text: again}", "ids must be unique"),
        (HONEST.replace("weight: 3", "weight: 0"), r"principles\[0\].weight"),
        (HONEST.replace("version: 2", "version: 0"), "version"),
    ],
)
def test_a_mistake_is_refused_with_file_and_field(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError, match=rf"c\.yaml: .*{words}"):
        Constitutions([str(tmp_path / "c.yaml")])


def test_names_are_unique_and_words_are_hashed(constitutions: Path) -> None:
    first = Constitutions([str(constitutions)]).known["honest"]
    (constitutions / "other.yaml").write_text(HONEST)
    with pytest.raises(ConfigError, match="'honest' is already the name of"):
        Constitutions([str(constitutions)])
    (constitutions / "other.yaml").write_text(HONEST.replace("It is true", "It is right").replace("honest", "right"))
    other = Constitutions([str(constitutions)]).known["right"]
    assert other.fingerprint != first.fingerprint
    assert first.version == 2


async def test_items_name_a_constitution(serve: Serve, constitutions: Path) -> None:
    context = pb.Context(principles=["@honest", "It is short."])
    items = [
        sample("named", "q", "19", context=context),
        sample("spelt", "q", "19", context=pb.Context(principles=["It says how sure it is.", "It is true.", "It is short."])),
        sample("unknown", "q", "19", context=pb.Context(principles=["@honst"])),
        sample("none", "q", "19"),
        sample("twice", "q", "19", context=pb.Context(principles=["@honest", "@honest"])),
    ]
    async with serve(constitutions=[str(constitutions)]) as client:
        [pinned] = await client.grade(items[:1], rubric="grade-principles")
        [pinned] = await client.grade(items[:1], rubric="grade-principles", model=pinned.message.provenance.model)
        assert pinned.value is not None
        named, spelt, unknown, none, twice = await client.grade(items, rubric="grade-principles")
    assert list(named.by_criterion) == ["sure", "true", "principle-2"]
    assert list(spelt.by_criterion.values()) == pytest.approx(list(named.by_criterion.values()), abs=1e-5)
    sure, true, short = named.by_criterion.values()
    assert named.value == pytest.approx((3 * sure + true + short) / 5, abs=1e-5)
    assert named.message.provenance.model.fingerprint != spelt.message.provenance.model.fingerprint
    for absent, words in ((unknown, r"did you mean 'honest'"), (none, "has none"), (twice, "twice")):
        assert absent.absence is not None
        assert absent.absence.reason == AbsenceReason.INVALID_INPUT
        assert words in absent.absence.detail


async def test_a_template_has_a_constitution(serve: Serve, constitutions: Path, tmp_path: Path) -> None:
    template = tmp_path / "constituted.yaml"
    text = SHORT.replace("short", "constituted").replace("Which", "{{ principles }} Which")
    template.write_text(text + "constitution: honest")
    fingerprints = []
    for change in ("", "really "):
        (constitutions / "honest.yaml").write_text(HONEST.replace("It is true", f"It is {change}true"))
        async with serve(constitutions=[str(constitutions)], templates=[str(template)], default_template="", default_rubric="") as client:
            [result] = await client.compare([pair("p", "q", "19", "20")])
            fingerprints.append(result.message.provenance.model.fingerprint)
    assert len(set(fingerprints)) == 2
    with pytest.raises(ConfigError, match="constitution: none is named 'honest'; known: none"):
        async with serve(templates=[str(template)], default_template="", default_rubric=""):
            pass
